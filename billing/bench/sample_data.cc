#include "billing/bench/sample_data.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/periods.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/invoice.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "billing/usage/usage.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

constexpr char kPlan[] = "sample";
constexpr int kRecordsOfBatch = 256;
constexpr int64_t kHourUs = int64_t{3'600'000'000};
// A month's money of a tenant that makes 20 requests a day, in micro-units; more for more.
constexpr int64_t kMonthMicro = 20'000'000;

constexpr const char* kTrades[] = {"bakery", "clinic", "law",    "garage", "school",  "print", "farm",
                                   "hotel",  "shop",   "studio", "travel", "brewery", "metal", "books"};
constexpr const char* kPlaces[] = {"north",   "lake", "hill", "river",  "oak",
                                   "harbour", "mill", "park", "bridge", "coast"};
constexpr const char* kModels[] = {"qwen3.5-122b-a10b", "qwen3.5-35b-a3b", "gantry-demo"};

struct Price {
  const char* glob;
  v1::TokenClass token_class;
  int64_t micro_per_m;
};
constexpr Price kPrices[] = {{"qwen3.5-122b-*", v1::TOKEN_CLASS_INPUT, 260'000},
                             {"qwen3.5-122b-*", v1::TOKEN_CLASS_OUTPUT, 2'080'000},
                             {"*", v1::TOKEN_CLASS_INPUT, 140'000},
                             {"*", v1::TOKEN_CLASS_CACHED_INPUT, 50'000},
                             {"*", v1::TOKEN_CLASS_OUTPUT, 1'000'000},
                             {"*", v1::TOKEN_CLASS_REQUEST, 0}};

struct Member {
  PartyRow party;
  Id16 key_id, plan_version_id;
  double appetite = 1;  // of its requests and their sizes
};

class Filler {
 public:
  Filler(Store& store, const Secret& pepper, const SampleDataOptions& options)
      : store_(store), pepper_(pepper), options_(options), random_(options.seed) {}

  absl::StatusOr<SampleDataReport> Run() {
    GANTRY_RETURN_IF_ERROR(Check());
    const absl::CivilMonth now = absl::ToCivilMonth(absl::FromUnixMicros(options_.end_us), absl::UTCTimeZone());
    const absl::CivilMonth first = now - (options_.months - 1);
    const int64_t start_us = UsOf(absl::CivilDay(first));
    GANTRY_RETURN_IF_ERROR(MakeParties(start_us));
    for (absl::CivilMonth month = first; month <= now; ++month) {
      GANTRY_RETURN_IF_ERROR(TopUps(UsOf(absl::CivilDay(month)) + kHourUs, month == first));
      for (absl::CivilDay day(month); absl::CivilMonth(day) == month; ++day) {
        if (UsOf(day + 1) > options_.end_us) break;
        GANTRY_RETURN_IF_ERROR(Day(day));
      }
      if (month < now) GANTRY_RETURN_IF_ERROR(Invoices(month));
    }
    return report_;
  }

 private:
  static int64_t UsOf(absl::CivilDay day) { return absl::ToUnixMicros(absl::FromCivil(day, absl::UTCTimeZone())); }
  // In [0, limit).
  int64_t Random(int64_t limit) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(limit)); }

  // Time-ordered like all ids, at the time that it pretends to be of.
  Id16 NewId(int64_t time_us) {
    Id16 id;
    const uint64_t ms = static_cast<uint64_t>(time_us / 1000) << 16 | (++serial_ & 0xffff);
    const uint64_t noise = noise_();
    for (int i = 0; i < 8; ++i) {
      id.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(ms >> (56 - 8 * i));
      id.bytes[static_cast<size_t>(8 + i)] = static_cast<uint8_t>(noise >> (8 * i));
    }
    return id;
  }

  absl::Status Check() {
    const auto within = [](const char* name, int value, int from, int to) {
      if (value >= from && value <= to) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected ", from, "..", to, ", found ", value));
    };
    GANTRY_RETURN_IF_ERROR(within("months", options_.months, 1, 36));
    GANTRY_RETURN_IF_ERROR(within("parties", options_.parties, 2, 500));
    return within("requests-per-day", options_.requests_per_day, 1, 10'000);
  }

  absl::Status MakeParties(int64_t now_us) {
    return store_.WriteAndWait([&](Database& db) -> absl::Status {
      absl::StatusOr<PartyRow> house = HouseOf(db);
      if (!house.ok()) {
        v1::CreatePartyRequest request;
        request.set_kind(v1::PARTY_KIND_HOUSE);
        request.set_name("house");
        request.set_legal_name("Sample House Ltd");
        request.set_currency("EUR");
        GANTRY_RETURN_IF_ERROR(CreateParty(db, request, now_us).status());
        house = HouseOf(db);
        if (!house.ok()) return house.status();
      }
      v1::PublishPlanVersionRequest plan;
      plan.set_plan(kPlan);
      plan.set_currency(house->currency);
      for (const Price& price : kPrices) {
        v1::PriceLine* line = plan.add_lines();
        line->set_model_glob(price.glob);
        line->set_token_class(price.token_class);
        line->set_price_micro_per_m(price.micro_per_m);
      }
      absl::StatusOr<v1::PlanVersion> published = PublishPlanVersion(db, plan, now_us);
      if (!published.ok()) {
        return absl::AlreadyExistsError(absl::StrCat("sample data is there already, or its plan cannot be published: ",
                                                     published.status().message()));
      }
      const int resellers = std::max(1, options_.parties / 5);
      for (int i = 0; i < options_.parties; ++i) {
        GANTRY_RETURN_IF_ERROR(i < resellers ? MakeReseller(db, i, now_us) : MakeTenant(db, i - resellers, now_us));
      }
      return absl::OkStatus();
    });
  }

  absl::StatusOr<PartyRow> MakeParty(Database& db, v1::PartyKind kind, const std::string& name,
                                     const std::string& parent, int64_t now_us) {
    v1::CreatePartyRequest request;
    request.set_kind(kind);
    request.set_name(name);
    std::string legal = name;
    legal[0] = absl::ascii_toupper(static_cast<unsigned char>(legal[0]));
    request.set_legal_name(absl::StrCat(legal, " Ltd"));
    request.set_parent_name(parent);
    request.set_plan(kPlan);
    GANTRY_RETURN_IF_ERROR(CreateParty(db, request, now_us).status());
    return PartyByName(db, name);
  }

  absl::Status MakeReseller(Database& db, int i, int64_t now_us) {
    const std::string name = absl::StrCat(kPlaces[static_cast<size_t>(i) % std::size(kPlaces)], "-ai-", i + 1);
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, MakeParty(db, v1::PARTY_KIND_RESELLER, name, "", now_us));
    GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const PlanTerms> base, TermsAt(db, party.party_no, now_us));
    v1::PublishPlanVersionRequest plan;
    plan.set_seller_name(name);
    plan.set_plan(kPlan);
    plan.set_currency(party.currency);
    plan.set_markup_of(base->version_id.ToBytes());
    plan.set_markup_ppm(100'000 + 50'000 * Random(5));
    GANTRY_RETURN_IF_ERROR(PublishPlanVersion(db, plan, now_us).status());
    resellers_.push_back(party);
    ++report_.resellers;
    return absl::OkStatus();
  }

  absl::Status MakeTenant(Database& db, int i, int64_t now_us) {
    const std::string name = absl::StrCat(kTrades[static_cast<size_t>(i) % std::size(kTrades)], "-",
                                          kPlaces[static_cast<size_t>(Random(std::size(kPlaces)))], "-", i + 1);
    // Every other one buys from a reseller.
    const std::string parent =
        i % 2 == 0 ? "" : resellers_[static_cast<size_t>(Random(static_cast<int64_t>(resellers_.size())))].name;
    Member member;
    GANTRY_ASSIGN_OR_RETURN(member.party, MakeParty(db, v1::PARTY_KIND_TENANT, name, parent, now_us));
    v1::CreateKeyRequest request;
    request.set_party_name(name);
    request.set_label("sample");
    GANTRY_ASSIGN_OR_RETURN(const CreatedKey key, CreateKey(db, request, pepper_, now_us));
    GANTRY_ASSIGN_OR_RETURN(member.key_id, Id16::FromBytes(key.key.key_id()));
    GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const PlanTerms> terms, TermsAt(db, member.party.party_no, now_us));
    member.plan_version_id = terms->version_id;
    member.appetite = 0.3 + 0.1 * static_cast<double>(Random(18));
    tenants_.push_back(std::move(member));
    ++report_.tenants;
    ++report_.keys;
    return absl::OkStatus();
  }

  // What is bought at the beginning of a month, and once a gift that runs out.
  absl::Status TopUps(int64_t now_us, bool first) {
    const int64_t month = kMonthMicro * std::max(1, options_.requests_per_day / 20);
    return store_.WriteAndWait([&](Database& db) -> absl::Status {
      for (const PartyRow& reseller : resellers_) {
        const Credit credit{.amount_micro = month * static_cast<int64_t>(tenants_.size()),
                            .reference = "sample transfer"};
        GANTRY_RETURN_IF_ERROR(PostCredit(db, reseller, credit, now_us));
      }
      for (const Member& tenant : tenants_) {
        const Credit credit{.amount_micro = static_cast<int64_t>(static_cast<double>(month) * 2 * tenant.appetite),
                            .reference = "sample transfer"};
        GANTRY_RETURN_IF_ERROR(PostCredit(db, tenant.party, credit, now_us));
        if (!first) continue;
        const Credit gift{.amount_micro = 1'000'000,
                          .kind = LotKind::kPromotional,
                          .priority = -1,
                          .expires_us = now_us + 10 * 24 * kHourUs,
                          .reference = "welcome"};
        GANTRY_RETURN_IF_ERROR(PostCredit(db, tenant.party, gift, now_us));
      }
      return absl::OkStatus();
    });
  }

  // A tenant's day: a slice for it, its requests, the rest given back.
  absl::Status Day(absl::CivilDay day) {
    const absl::Weekday weekday = absl::GetWeekday(day);
    const bool weekend = weekday == absl::Weekday::saturday || weekday == absl::Weekday::sunday;
    const int64_t day_us = UsOf(day);
    return store_.WriteAndWait([&](Database& db) -> absl::Status {
      for (const Member& tenant : tenants_) {
        auto requests = static_cast<int64_t>(static_cast<double>(options_.requests_per_day) * tenant.appetite);
        if (weekend) requests /= 5;
        requests = std::max<int64_t>(1, requests * (80 + Random(41)) / 100);
        GANTRY_RETURN_IF_ERROR(DayOf(db, tenant, day_us, requests));
      }
      return ExpireLots(db, day_us + 24 * kHourUs - 1, 1000).status();
    });
  }

  absl::Status DayOf(Database& db, const Member& tenant, int64_t day_us, int64_t requests) {
    const Id16 slice = NewId(day_us);
    v1::GrantSliceRequest grant;
    grant.set_slice_id(slice.ToBytes());
    grant.set_gateway_id(gateway_.ToBytes());
    grant.set_gateway_epoch(1);
    grant.set_party_id(tenant.party.party_id.ToBytes());
    grant.set_wanted_micro(kMonthMicro * std::max(1, options_.requests_per_day / 20));
    grant.set_minimum_micro(1);
    const absl::Status granted = GrantSlice(db, grant, day_us + 6 * kHourUs).status();
    // Without money there are no requests, as in life.
    if (absl::IsFailedPrecondition(granted)) return absl::OkStatus();
    GANTRY_RETURN_IF_ERROR(granted);
    const int64_t end_us = day_us + 20 * kHourUs;
    for (int64_t done = 0; done < requests; done += kRecordsOfBatch) {
      v1::UsageBatch usage;
      v1::WitnessBatch witnesses;
      usage.set_gateway_id(gateway_.ToBytes());
      usage.set_gateway_epoch(1);
      witnesses.set_worker_id(std::string(16, 's'));
      for (int64_t i = done; i < std::min<int64_t>(requests, done + kRecordsOfBatch); ++i) {
        const int64_t at_us = day_us + 7 * kHourUs + (i * 12 * kHourUs) / requests;
        Request(tenant, slice, at_us, end_us, usage.add_records(), witnesses.add_records());
      }
      GANTRY_ASSIGN_OR_RETURN(const AppendResult result, AppendUsage(db, usage, end_us));
      if (result.ack.rejected_size() > 0) return absl::InternalError(result.ack.rejected(0).reason());
      GANTRY_RETURN_IF_ERROR(AppendWitness(db, witnesses, end_us).status());
      report_.requests += usage.records_size();
    }
    v1::ReturnSliceRequest back;
    back.set_slice_id(slice.ToBytes());
    back.set_close(true);
    return ReturnSlice(db, back, end_us).status();
  }

  void Request(const Member& tenant, const Id16& slice, int64_t at_us, int64_t now_us, v1::UsageRecord* usage,
               v1::WitnessRecord* witness) {
    const auto prompt = static_cast<uint64_t>(50 + Random(4000)), generated = static_cast<uint64_t>(1 + Random(800));
    const bool aborted = Random(20) == 0;
    const uint64_t delivered = aborted ? generated / 2 : generated;
    usage->set_record_id(NewId(at_us).ToBytes());
    usage->set_request_id(NewId(at_us).ToBytes());
    usage->set_party_id(tenant.party.party_id.ToBytes());
    usage->set_key_id(tenant.key_id.ToBytes());
    usage->set_slice_id(slice.ToBytes());
    usage->set_hold_id(NewId(at_us).ToBytes());
    usage->set_model(kModels[static_cast<size_t>(Random(std::size(kModels)))]);
    usage->set_plan_version_id(tenant.plan_version_id.ToBytes());
    usage->set_outcome(aborted ? v1::USAGE_OUTCOME_ABORTED : v1::USAGE_OUTCOME_COMPLETED);
    usage->set_prompt_tokens(prompt);
    usage->set_cached_tokens(Random(3) == 0 ? prompt / 2 : 0);
    usage->set_output_tokens(delivered);
    usage->set_duration_ms(generated * 12);
    usage->set_first_token_ms(static_cast<uint64_t>(60 + Random(300)));
    usage->set_age_ms(static_cast<uint64_t>(std::max<int64_t>(0, now_us - at_us)) / 1000);
    v1::SequenceUsage* sequence = usage->add_sequences();
    sequence->set_attempts(1);
    sequence->set_output_tokens(delivered);
    witness->set_record_id(NewId(at_us).ToBytes());
    witness->set_request_id(usage->request_id());
    witness->set_hold_id(usage->hold_id());
    witness->set_party_id(usage->party_id());
    witness->set_attempt(1);
    witness->set_to_index(generated);
    witness->set_prompt_tokens(prompt);
    witness->set_cached_tokens(usage->cached_tokens());
    witness->set_model(usage->model());
    witness->set_age_ms(usage->age_ms());
  }

  absl::Status Invoices(absl::CivilMonth month) {
    const int64_t now_us = UsOf(absl::CivilDay(month + 1)) + 5 * 24 * kHourUs;
    if (now_us > options_.end_us) return absl::OkStatus();
    const auto period = static_cast<int64_t>(month.year()) * 100 + month.month();
    const auto finalize = [&](const std::string& name) {
      return store_.WriteAndWait([&](Database& db) {
        v1::FinalizeInvoiceRequest request;
        request.set_party_name(name);
        request.set_period(FormatPeriod(period));
        // Not before what is booked already: these books may have a present of their own.
        Rows last = db.Query("SELECT coalesce(max(booked_us), 0) FROM transfer");
        const int64_t issued_us = std::max(now_us, last.Next() ? last.Int(0) : 0);
        return FinalizeInvoice(db, request, issued_us).status();
      });
    };
    for (const PartyRow& reseller : resellers_) GANTRY_RETURN_IF_ERROR(finalize(reseller.name));
    for (const Member& tenant : tenants_) GANTRY_RETURN_IF_ERROR(finalize(tenant.party.name));
    report_.invoices += static_cast<int>(resellers_.size() + tenants_.size());
    return absl::OkStatus();
  }

  Store& store_;
  const Secret& pepper_;
  const SampleDataOptions options_;
  std::mt19937_64 random_;  // what is the same for the same seed
  std::random_device device_;
  std::mt19937_64 noise_{device_()};  // what makes ids unique
  uint64_t serial_ = 0;
  const Id16 gateway_ = NewTimeOrderedId();
  std::vector<PartyRow> resellers_;
  std::vector<Member> tenants_;
  SampleDataReport report_;
};

}  // namespace

absl::StatusOr<SampleDataReport> FillWithSampleData(Store& store, const Secret& pepper,
                                                    const SampleDataOptions& options) {
  return Filler(store, pepper, options).Run();
}

}  // namespace gantry::billing
