#include "billing/catalog/plans.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "billing/catalog/price_diff.h"
#include "billing/parties/party_tree.h"
#include "billing/rating/rating.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kMoneyMaxMicro = 1'000'000'000'000'000;

// What a hold must cover: the dearest tier.
int64_t DearestOf(const PriceLine& line) {
  int64_t dearest = 0;
  for (const Tier& tier : line.tiers) dearest = std::max(dearest, tier.price_micro_per_m);
  return dearest;
}

absl::StatusOr<std::vector<PriceLine>> FromProto(const google::protobuf::RepeatedPtrField<v1::PriceLine>& protos) {
  if (protos.size() > kPriceLinesMax) {
    return absl::InvalidArgumentError(absl::StrCat("lines: expected at most ", kPriceLinesMax));
  }
  std::vector<PriceLine> lines;
  for (const v1::PriceLine& proto : protos) {
    absl::StatusOr<PriceLine> line = billing::FromProto(proto);
    if (!line.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("price line ", lines.size(), ": ", line.status().message()));
    }
    lines.push_back(*std::move(line));
  }
  return lines;
}

absl::Status CheckTerms(const PlanTerms& terms) {
  if (terms.plan.empty() || terms.plan.size() > 64) {
    return absl::InvalidArgumentError("plan: expected a name of 1..64 bytes");
  }
  if (terms.currency.size() != 3) return absl::InvalidArgumentError("currency: expected an ISO 4217 code");
  if (terms.commitment_micro < 0 || terms.commitment_micro > kMoneyMaxMicro || terms.allowance_micro < 0 ||
      terms.allowance_micro > kMoneyMaxMicro) {
    return absl::InvalidArgumentError(absl::StrCat("commitment_micro, allowance_micro: expected 0..", kMoneyMaxMicro));
  }
  if (terms.promise_until_us != 0 && terms.promise_until_us <= terms.valid_from_us) {
    return absl::InvalidArgumentError("promise_until_us: expected a time after valid_from_us, or 0 for no promise");
  }
  return ValidatePriceLines(terms.lines);
}

// A version keeps the promise of the one before it, or takes effect after it has run out.
absl::Status CheckAgainst(const PlanTerms& before, const PlanTerms& terms) {
  if (before.currency != terms.currency) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan `", terms.plan, "` is in ", before.currency, " and stays so; use another plan"));
  }
  if (terms.valid_from_us < before.valid_from_us) {
    return absl::FailedPreconditionError(absl::StrCat("valid_from_us: version ", before.number, " takes effect later (",
                                                      before.valid_from_us, "); versions follow each other"));
  }
  if (terms.valid_from_us >= before.promise_until_us) return absl::OkStatus();
  std::string broken;
  for (const v1::PriceChange& change : DiffPrices(before.lines, terms.lines)) {
    if (change.dearer()) broken = change.what();
  }
  if (terms.commitment_micro > before.commitment_micro) broken = "the minimum commitment";
  if (terms.allowance_micro < before.allowance_micro) broken = "the free allowance";
  // The promise goes on until it ends, whoever comes after.
  if (terms.promise_until_us < before.promise_until_us) broken = "the promise itself";
  if (broken.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("version ", before.number, " of plan `", terms.plan,
                                                    "` promises its prices until ", before.promise_until_us,
                                                    " (µs); this one would break it: ", broken));
}

// What the markup of a reseller is on: a version of its own seller, by default the one that it pays now.
absl::StatusOr<std::shared_ptr<const PlanTerms>> BaseOf(Database& db, const v1::PublishPlanVersionRequest& request,
                                                        const PartyRow& seller, int64_t now_us) {
  if (request.markup_of().empty()) return TermsAt(db, seller.party_no, now_us);
  GANTRY_ASSIGN_OR_RETURN(const Id16 base_id, Id16::FromBytes(request.markup_of()));
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> base, TermsOf(db, base_id));
  if (seller.depth > 0 && base->seller_no == seller.parent_no) return base;
  return absl::InvalidArgumentError(
      absl::StrCat("markup_of: expected a version that `", seller.name, "` buys at, of its own seller"));
}

absl::StatusOr<std::vector<PriceLine>> LinesOfRequest(Database& db, const v1::PublishPlanVersionRequest& request,
                                                      const PartyRow& seller, int64_t now_us) {
  const bool marks_up = !request.markup_of().empty() || (request.lines().empty() && seller.depth > 0);
  if (!marks_up) return FromProto(request.lines());
  if (request.lines_size() > 0) return absl::InvalidArgumentError("lines, markup_of: expected one of them");
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const PlanTerms> base, BaseOf(db, request, seller, now_us));
  return MarkedUp(base->lines, request.markup_ppm());
}

std::optional<Id16> LatestVersion(Rows rows) {
  if (!rows.Next()) return std::nullopt;
  return rows.Id(0);
}

void Insert(Database& db, const PlanTerms& terms) {
  db.Execute(
      "INSERT INTO plan_version (plan_version_id, plan_no, number, valid_from_us, promise_until_us, commitment_micro, "
      "allowance_micro, published_us, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      terms.version_id, terms.plan_no, terms.number, terms.valid_from_us, terms.promise_until_us,
      terms.commitment_micro, terms.allowance_micro, terms.published_us, Blob{terms.hash});
  const int64_t version_no = db.LastRowId();
  for (size_t i = 0; i < terms.lines.size(); ++i) {
    const PriceLine& line = terms.lines[i];
    db.Execute(
        "INSERT INTO plan_line (version_no, position, model_glob, token_class, context_from, context_to, mode, "
        "package_size) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        version_no, static_cast<int64_t>(i), line.model_glob, static_cast<int64_t>(ProtoOf(line.token_class)),
        line.context_from, line.context_to, static_cast<int64_t>(line.mode) + 1, line.package_size);
    for (const Tier& tier : line.tiers) {
      db.Execute("INSERT INTO plan_tier (version_no, position, from_units, price_micro_per_m) VALUES (?, ?, ?, ?)",
                 version_no, static_cast<int64_t>(i), tier.from, tier.price_micro_per_m);
    }
  }
}

v1::PlanVersion VersionToProto(Database& db, const PlanTerms& terms) {
  v1::PlanVersion version;
  version.set_plan_version_id(terms.version_id.ToBytes());
  version.set_plan(terms.plan);
  version.set_number(static_cast<uint32_t>(terms.number));
  version.set_currency(terms.currency);
  for (const PriceLine& line : terms.lines) *version.add_lines() = ToProto(line);
  version.set_valid_from_us(terms.valid_from_us);
  version.set_published_us(terms.published_us);
  version.set_hash(terms.hash);
  version.set_promise_until_us(terms.promise_until_us);
  version.set_commitment_micro(terms.commitment_micro);
  version.set_allowance_micro(terms.allowance_micro);
  absl::StatusOr<PartyRow> seller = PartyByNo(db, terms.seller_no);
  if (seller.ok()) version.set_seller_name(seller->name);
  return version;
}

// Versions never change, so what has been read once is known. Bounded: it starts anew when it is full.
class KnownTerms {
 public:
  std::shared_ptr<const PlanTerms> Find(const Id16& id) {
    std::lock_guard lock(mutex_);
    auto found = terms_.find(id);
    return found == terms_.end() ? nullptr : found->second;
  }
  void Add(std::shared_ptr<const PlanTerms> terms) {
    std::lock_guard lock(mutex_);
    if (terms_.size() >= kLimit) terms_.clear();
    terms_[terms->version_id] = std::move(terms);
  }

 private:
  static constexpr size_t kLimit = 4096;
  std::mutex mutex_;
  absl::flat_hash_map<Id16, std::shared_ptr<const PlanTerms>> terms_;
};
KnownTerms& Known() {
  static auto* known = new KnownTerms;
  return *known;
}

}  // namespace

v1::TokenClass ProtoOf(TokenClass token_class) {
  return static_cast<v1::TokenClass>(static_cast<int>(token_class) + 1);
}
static_assert(v1::TOKEN_CLASS_INPUT == static_cast<int>(TokenClass::kInput) + 1 &&
              v1::TOKEN_CLASS_REQUEST == static_cast<int>(TokenClass::kRequest) + 1);
static_assert(v1::TIER_MODE_FLAT == static_cast<int>(TierMode::kFlat) + 1 &&
              v1::TIER_MODE_PACKAGE == static_cast<int>(TierMode::kPackage) + 1);

absl::StatusOr<PriceLine> FromProto(const v1::PriceLine& proto) {
  if (proto.token_class() < v1::TOKEN_CLASS_INPUT || proto.token_class() > v1::TOKEN_CLASS_REQUEST) {
    return absl::InvalidArgumentError("token_class: expected input, cached_input, output or request");
  }
  if (proto.mode() < 0 || proto.mode() > v1::TIER_MODE_PACKAGE) {
    return absl::InvalidArgumentError("mode: expected flat, graduated, volume or package");
  }
  const uint64_t limit = static_cast<uint64_t>(kUnitsMax);
  if (proto.context_from() > limit || proto.context_to() > limit || proto.package_size() > limit) {
    return absl::InvalidArgumentError(absl::StrCat("contexts and package_size: expected at most ", kUnitsMax));
  }
  PriceLine line =
      FlatLine(proto.model_glob(), static_cast<TokenClass>(proto.token_class() - 1), proto.price_micro_per_m());
  line.context_from = static_cast<int64_t>(proto.context_from());
  line.context_to = static_cast<int64_t>(proto.context_to());
  line.package_size = static_cast<int64_t>(proto.package_size());
  if (proto.mode() != v1::TIER_MODE_UNSPECIFIED) line.mode = static_cast<TierMode>(proto.mode() - 1);
  const bool tiered = line.mode == TierMode::kGraduated || line.mode == TierMode::kVolume;
  if (tiered != (proto.tiers_size() > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tiers: expected ", tiered ? "some" : "none", " of a ", TierModeName(line.mode), " line"));
  }
  if (tiered) line.tiers.clear();
  for (const v1::PriceTier& tier : proto.tiers()) {
    if (tier.from() > limit) return absl::InvalidArgumentError(absl::StrCat("tiers: expected at most ", kUnitsMax));
    line.tiers.push_back({static_cast<int64_t>(tier.from()), tier.price_micro_per_m()});
  }
  return line;
}

v1::PriceLine ToProto(const PriceLine& line) {
  v1::PriceLine proto;
  proto.set_model_glob(line.model_glob);
  proto.set_token_class(ProtoOf(line.token_class));
  proto.set_price_micro_per_m(DearestOf(line));
  proto.set_context_from(static_cast<uint64_t>(line.context_from));
  proto.set_context_to(static_cast<uint64_t>(line.context_to));
  proto.set_mode(static_cast<v1::TierMode>(static_cast<int>(line.mode) + 1));
  proto.set_package_size(static_cast<uint64_t>(line.package_size));
  if (line.mode == TierMode::kFlat || line.mode == TierMode::kPackage) return proto;
  for (const Tier& tier : line.tiers) {
    v1::PriceTier* added = proto.add_tiers();
    added->set_from(static_cast<uint64_t>(tier.from));
    added->set_price_micro_per_m(tier.price_micro_per_m);
  }
  return proto;
}

std::string HashOfTerms(const PlanTerms& terms) {
  ChainHash hash("");
  hash.Add(terms.plan).Add(terms.number).Add(terms.currency).Add(terms.valid_from_us).Add(terms.promise_until_us);
  hash.Add(terms.commitment_micro).Add(terms.allowance_micro);
  for (const PriceLine& line : terms.lines) {
    hash.Add(line.model_glob).Add(static_cast<int64_t>(line.token_class)).Add(line.context_from).Add(line.context_to);
    hash.Add(static_cast<int64_t>(line.mode)).Add(line.package_size).Add(static_cast<int64_t>(line.tiers.size()));
    for (const Tier& tier : line.tiers) hash.Add(tier.from).Add(tier.price_micro_per_m);
  }
  return hash.Finish();
}

absl::StatusOr<PlanTerms> CheckPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request, int64_t now_us) {
  absl::StatusOr<PartyRow> seller =
      request.seller_name().empty() ? HouseOf(db) : PartyByName(db, request.seller_name());
  if (!seller.ok()) return seller.status();
  if (seller->kind != v1::PARTY_KIND_HOUSE && seller->kind != v1::PARTY_KIND_RESELLER) {
    return absl::FailedPreconditionError(absl::StrCat("seller_name: `", seller->name, "` sells nothing"));
  }
  if (request.valid_from_us() != 0 && request.valid_from_us() < now_us) {
    return absl::InvalidArgumentError("valid_from_us: expected a time to come, or 0 for now");
  }
  PlanTerms terms{.plan = request.plan(),
                  .number = 1,
                  .seller_no = seller->party_no,
                  .currency = request.currency().empty() ? seller->currency : request.currency(),
                  .valid_from_us = request.valid_from_us() == 0 ? now_us : request.valid_from_us(),
                  .promise_until_us = request.promise_until_us(),
                  .commitment_micro = request.commitment_micro(),
                  .allowance_micro = request.allowance_micro(),
                  .published_us = now_us};
  GANTRY_ASSIGN_OR_RETURN(terms.lines, LinesOfRequest(db, request, *seller, now_us));
  GANTRY_RETURN_IF_ERROR(CheckTerms(terms));
  {
    Rows rows = db.Query("SELECT plan_no FROM plan WHERE seller_no = ? AND name = ?", terms.seller_no, terms.plan);
    if (rows.Next()) terms.plan_no = rows.Int(0);
  }
  const std::optional<Id16> before_id = LatestVersion(db.Query(
      "SELECT plan_version_id FROM plan_version WHERE plan_no = ? ORDER BY number DESC LIMIT 1", terms.plan_no));
  if (before_id) {
    GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> before, TermsOf(db, *before_id));
    GANTRY_RETURN_IF_ERROR(CheckAgainst(*before, terms));
    terms.number = before->number + 1;
  }
  return terms;
}

absl::StatusOr<v1::PlanVersion> PublishPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request,
                                                   int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PlanTerms terms, CheckPlanVersion(db, request, now_us));
  if (terms.plan_no == 0) {
    db.Execute("INSERT INTO plan (seller_no, name, currency) VALUES (?, ?, ?)", terms.seller_no, terms.plan,
               terms.currency);
    terms.plan_no = db.LastRowId();
  }
  terms.version_id = NewTimeOrderedId();
  terms.hash = HashOfTerms(terms);
  Insert(db, terms);
  return VersionToProto(db, terms);
}

absl::StatusOr<PlanTerms> ReadTerms(Database& db, const Id16& id) {
  PlanTerms terms{.version_id = id};
  {
    Rows rows = db.Query(
        "SELECT v.version_no, v.plan_no, p.name, v.number, p.seller_no, p.currency, v.valid_from_us, "
        "v.promise_until_us, v.commitment_micro, v.allowance_micro, v.published_us, v.hash "
        "FROM plan_version v JOIN plan p USING (plan_no) WHERE v.plan_version_id = ?",
        id);
    if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no plan version ", id.ToHex()));
    terms.version_no = rows.Int(0);
    terms.plan_no = rows.Int(1);
    terms.plan = rows.Text(2);
    terms.number = rows.Int(3);
    terms.seller_no = rows.Int(4);
    terms.currency = rows.Text(5);
    terms.valid_from_us = rows.Int(6);
    terms.promise_until_us = rows.Int(7);
    terms.commitment_micro = rows.Int(8);
    terms.allowance_micro = rows.Int(9);
    terms.published_us = rows.Int(10);
    terms.hash = rows.Text(11);
  }
  Rows rows = db.Query(
      "SELECT l.position, l.model_glob, l.token_class, l.context_from, l.context_to, l.mode, l.package_size, "
      "t.from_units, t.price_micro_per_m FROM plan_line l JOIN plan_tier t USING (version_no, position) "
      "WHERE l.version_no = ? ORDER BY l.position, t.from_units",
      terms.version_no);
  int64_t position = -1;
  while (rows.Next()) {
    if (rows.Int(0) != position) {
      position = rows.Int(0);
      PriceLine line = FlatLine(rows.Text(1), static_cast<TokenClass>(rows.Int(2) - 1), 0);
      line.tiers.clear();
      line.context_from = rows.Int(3);
      line.context_to = rows.Int(4);
      line.mode = static_cast<TierMode>(rows.Int(5) - 1);
      line.package_size = rows.Int(6);
      terms.lines.push_back(std::move(line));
    }
    terms.lines.back().tiers.push_back({rows.Int(7), rows.Int(8)});
  }
  return terms;
}

absl::StatusOr<std::shared_ptr<const PlanTerms>> TermsOf(Database& db, const Id16& id) {
  std::shared_ptr<const PlanTerms> known = Known().Find(id);
  if (known != nullptr) return known;
  GANTRY_ASSIGN_OR_RETURN(PlanTerms terms, ReadTerms(db, id));
  if (!db.ok()) return absl::InternalError("a plan version could not be read");
  auto shared = std::make_shared<const PlanTerms>(std::move(terms));
  Known().Add(shared);
  return shared;
}

absl::StatusOr<std::shared_ptr<const PlanTerms>> TermsAt(Database& db, int64_t party_no, int64_t time_us) {
  const std::optional<Id16> id = LatestVersion(
      db.Query("SELECT v.plan_version_id FROM plan_version v WHERE v.plan_no = (SELECT plan_no FROM subscription "
               "WHERE party_no = ?1 AND from_us <= ?2 ORDER BY from_us DESC LIMIT 1) AND v.valid_from_us <= ?2 "
               "ORDER BY v.number DESC LIMIT 1",
               party_no, time_us));
  if (!id) return absl::NotFoundError(absl::StrCat("nothing prices party number ", party_no, " at ", time_us));
  return TermsOf(db, *id);
}

absl::StatusOr<TermsSpan> TermsSpanAt(Database& db, int64_t party_no, int64_t time_us) {
  TermsSpan span;
  GANTRY_ASSIGN_OR_RETURN(span.terms, TermsAt(db, party_no, time_us));
  Rows rows = db.Query(
      "SELECT (SELECT max(from_us) FROM subscription WHERE party_no = ?1 AND from_us <= ?2), "
      "(SELECT min(from_us) FROM subscription WHERE party_no = ?1 AND from_us > ?2), "
      "(SELECT min(valid_from_us) FROM plan_version WHERE plan_no = ?3 AND valid_from_us > ?2)",
      party_no, time_us, span.terms->plan_no);
  if (!rows.Next()) return absl::InternalError("subscriptions cannot be read");
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  span.from_us = std::max(rows.Int(0), span.terms->valid_from_us);
  span.until_us = std::min(rows.IsNull(1) ? kNever : rows.Int(1), rows.IsNull(2) ? kNever : rows.Int(2));
  return span;
}

absl::StatusOr<v1::ListPlanVersionsResponse> ListPlanVersions(Database& db,
                                                              const v1::ListPlanVersionsRequest& request) {
  std::vector<Id16> ids;
  {
    Rows rows = db.Query(
        "SELECT v.plan_version_id FROM plan_version v JOIN plan p USING (plan_no) JOIN party s ON s.party_no = "
        "p.seller_no "
        "WHERE (?1 = '' OR p.name = ?1) AND (?2 = '' OR s.name = ?2) ORDER BY p.seller_no, p.name, v.number",
        request.plan(), request.seller_name());
    while (rows.Next()) ids.push_back(rows.Id(0));
  }
  v1::ListPlanVersionsResponse response;
  for (const Id16& id : ids) {
    GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, id));
    *response.add_versions() = VersionToProto(db, *terms);
  }
  return response;
}

absl::StatusOr<v1::PreviewPriceResponse> PreviewPrice(Database& db, const v1::PreviewPriceRequest& request) {
  std::vector<PriceLine> lines;
  if (request.lines_size() > 0) {
    GANTRY_ASSIGN_OR_RETURN(lines, FromProto(request.lines()));
    GANTRY_RETURN_IF_ERROR(ValidatePriceLines(lines));
  } else {
    GANTRY_ASSIGN_OR_RETURN(Id16 id, Id16::FromBytes(request.plan_version_id()));
    GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, id));
    lines = terms->lines;
  }
  const uint64_t requests = std::max<uint64_t>(1, request.requests());
  const auto limit = static_cast<uint64_t>(kUnitsMax);
  for (const uint64_t count : {request.prompt_tokens(), request.output_tokens(), requests}) {
    if (count > limit / requests) {
      return absl::InvalidArgumentError(absl::StrCat("expected counts of at most ", kUnitsMax, " in all"));
    }
  }
  if (request.cached_tokens() > request.prompt_tokens()) {
    return absl::InvalidArgumentError("cached_tokens: expected at most prompt_tokens");
  }
  const auto all = [&](uint64_t count) { return static_cast<int64_t>(count * requests); };
  const Quantities used{all(request.prompt_tokens() - request.cached_tokens()), all(request.cached_tokens()),
                        all(request.output_tokens()), static_cast<int64_t>(requests)};
  GANTRY_ASSIGN_OR_RETURN(
      const std::vector<Charge> charges,
      Rate(lines, request.model(), static_cast<int64_t>(request.prompt_tokens()), used, [](int) { return 0; }));
  v1::PreviewPriceResponse response;
  int64_t sum = 0;
  for (const Charge& charge : charges) {
    v1::PreviewCharge* added = response.add_charges();
    *added->mutable_line() = ToProto(lines[static_cast<size_t>(charge.line)]);
    added->set_quantity(static_cast<uint64_t>(charge.quantity));
    added->set_amount_pico(charge.amount_pico);
    if (__builtin_add_overflow(sum, charge.amount_pico, &sum)) {
      return absl::OutOfRangeError("the amount exceeds 9.2 million units");
    }
  }
  response.set_amount_pico(sum);
  return response;
}

absl::StatusOr<v1::DiffPlanVersionsResponse> DiffPlanVersions(Database& db,
                                                              const v1::DiffPlanVersionsRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(Id16 from_id, Id16::FromBytes(request.from_version_id()));
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> from, TermsOf(db, from_id));
  std::vector<PriceLine> to;
  if (request.to_lines_size() > 0) {
    GANTRY_ASSIGN_OR_RETURN(to, FromProto(request.to_lines()));
    GANTRY_RETURN_IF_ERROR(ValidatePriceLines(to));
  } else {
    GANTRY_ASSIGN_OR_RETURN(Id16 to_id, Id16::FromBytes(request.to_version_id()));
    GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, to_id));
    to = terms->lines;
  }
  v1::DiffPlanVersionsResponse response;
  for (v1::PriceChange& change : DiffPrices(from->lines, to)) *response.add_changes() = std::move(change);
  return response;
}

absl::StatusOr<std::vector<v1::TenantPrices>> CurrentPrices(Database& db, int64_t party_no, int64_t now_us) {
  std::vector<std::pair<int64_t, Id16>> parties;
  {
    Rows rows =
        db.Query("SELECT party_no, party_id FROM party WHERE depth > 0 AND (?1 = 0 OR party_no = ?1)", party_no);
    while (rows.Next()) parties.push_back({rows.Int(0), rows.Id(1)});
  }
  std::vector<v1::TenantPrices> tenants;
  for (const auto& [no, id] : parties) {
    absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsAt(db, no, now_us);
    if (absl::IsNotFound(terms.status())) continue;  // its plan takes effect later
    if (!terms.ok()) return terms.status();
    v1::TenantPrices& prices = tenants.emplace_back();
    prices.set_party_id(id.ToBytes());
    prices.set_plan_version_id((*terms)->version_id.ToBytes());
    prices.set_currency((*terms)->currency);
    for (const PriceLine& line : (*terms)->lines) *prices.add_lines() = ToProto(line);
  }
  return tenants;
}

bool PricesTakeEffect(Database& db, int64_t since_us, int64_t now_us) {
  Rows rows = db.Query(
      "SELECT EXISTS (SELECT 1 FROM plan_version WHERE valid_from_us > ?1 AND valid_from_us <= ?2 AND "
      "valid_from_us > published_us) OR EXISTS (SELECT 1 FROM subscription WHERE from_us > ?1 AND from_us <= ?2)",
      since_us, now_us);
  return rows.Next() && rows.Int(0) == 1;
}

}  // namespace gantry::billing
