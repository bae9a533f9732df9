// One pass over usage, its ratings and the transfers, side by side in the order in which they were written.
//
// Usage is the spine: an event stands with its ratings (by event_seq) and with the postings it led to (by source).
// Transfers were written in the order of their events, so three cursors that only go forward meet every row once. For
// each event: its hash, what each hop must have been charged at the version it names, and what must have been posted
// for that, with the residue that the buyer's account had then.
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/ledger.h"
#include "billing/rating/rating.h"
#include "billing/usage/event.h"
#include "billing/usage/parts.h"

namespace gantry::billing {
namespace {

constexpr __int128 kPicoPerUnit = 1'000'000'000'000;
constexpr int64_t kResidueLimit = 1'000'000;

struct RatingRow {
  int64_t event_seq = 0, level = 0;
  RatedHop hop{};
};

struct Posting {
  int64_t seq = 0, debit = 0, credit = 0, micro = 0;
  TransferKind kind = TransferKind::kUsage;
  bool used = false;  // as what an event's hop led to
};

// What a kind of transfer moves money between; null: any.
struct KindRule {
  const char *debit, *credit;
};
KindRule RuleOf(TransferKind kind) {
  switch (kind) {
    case TransferKind::kTopUp:
      return {"cash", "customer"};
    case TransferKind::kPromotion:
      return {"promotion", "customer"};
    case TransferKind::kUsage:
      return {"customer", "revenue"};
    case TransferKind::kUsageUnheld:
      return {"late_unheld", "revenue"};
    case TransferKind::kUnbilled:
      return {"unbilled_loss", "revenue"};
    case TransferKind::kUsageReturned:
      return {"revenue", nullptr};
    case TransferKind::kExpiry:
      return {"customer", "breakage"};
    case TransferKind::kCommitment:
      return {"customer", "revenue"};
    case TransferKind::kTax:
      return {"customer", "tax"};
    case TransferKind::kCreditNote:
      return {nullptr, "customer"};
    case TransferKind::kRefund:
      return {"customer", "cash"};
    case TransferKind::kRounding:  // either way
    case TransferKind::kVoid:      // of several kinds
      break;
  }
  return {nullptr, nullptr};
}

bool IsOfUsage(TransferKind kind) {
  return kind >= TransferKind::kUsage && kind <= TransferKind::kUsageReturned;
}

class BooksPass {
 public:
  BooksPass(Database& db, Findings* findings) : db_(db), findings_(*findings) {}

  CreditTaken Run() {
    for (const char* check : {check::kAccounts, check::kBalanced, check::kBooked, check::kRated, check::kRollups,
                              check::kTransferChain, check::kUsageChain}) {
      findings_.Begin(check);
    }
    accounts_ = ReadAccounts(db_);
    for (const auto& [number, account] : accounts_) {
      if (account.type == "customer") customers_[{account.party_no, account.currency}] = number;
    }
    Pass();
    CompareAccounts();
    CompareRollups();
    return std::move(taken_);
  }

 private:
  struct Key {
    int64_t buyer, period, version, line, model;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.buyer, k.period, k.version, k.line, k.model);
    }
  };
  struct Sum {
    int64_t quantity = 0;
    __int128 amount = 0;
    bool compared = false;
  };
  struct Sums {
    __int128 debit = 0, credit = 0;
  };

  // ---- the three cursors ----

  void Pass() {
    Rows events = db_.Query("SELECT " GANTRY_USAGE_COLUMNS ", u.hash FROM usage_event u ORDER BY u.seq");
    Rows ratings = db_.Query(
        "SELECT event_seq, level, buyer_no, seller_no, version_no, period, amount_pico FROM rating "
        "ORDER BY event_seq, level");
    Rows transfers = db_.Query(
        "SELECT seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash "
        "FROM transfer ORDER BY seq");
    bool more_ratings = NextRating(ratings);
    bool more_transfers = NextTransfer(transfers);
    std::vector<RatedHop> hops;
    int64_t rows = 0;
    while (events.Next()) {
      const UsageEvent event = ReadEvent(events);
      ++rows;
      hops.clear();
      for (; more_ratings && rating_.event_seq <= event.seq; more_ratings = NextRating(ratings)) {
        if (rating_.event_seq < event.seq) {
          OrphanRating();
          continue;
        }
        if (rating_.level != static_cast<int64_t>(hops.size())) {
          findings_.Add(check::kRated, RatingName(event.seq, rating_.level),
                        absl::StrCat("expected level ", hops.size()), rating_.hop.buyer_no);
        }
        hops.push_back(rating_.hop);
      }
      CheckEventChain(event, hops, events.View(kUsageColumns));
      postings_.clear();
      for (; more_transfers && (!IsOfUsage(posting_.kind) || source_ <= event.seq);
           more_transfers = NextTransfer(transfers)) {
        if (!IsOfUsage(posting_.kind)) continue;
        if (source_ < event.seq) {
          OrphanPosting(posting_);
        } else {
          postings_.push_back(posting_);
        }
      }
      Event(event, hops);
    }
    for (; more_ratings; more_ratings = NextRating(ratings)) OrphanRating();
    for (; more_transfers; more_transfers = NextTransfer(transfers)) {
      if (IsOfUsage(posting_.kind)) OrphanPosting(posting_);
    }
    findings_.Figures(check::kUsageChain, absl::StrCat(rows, " rows"));
    findings_.Figures(check::kTransferChain, absl::StrCat(transfers_, " rows"));
    findings_.Figures(check::kRated, absl::StrCat(rows, " records rated again at ", ratings_, " hops"));
    findings_.Figures(check::kBooked, absl::StrCat(customers_.size(), " buyers, exact to the pico-unit"));
  }

  bool NextRating(Rows& rows) {
    if (!rows.Next()) return false;
    ++ratings_;
    rating_ = {rows.Int(0), rows.Int(1), ReadRatedHop(rows, 2)};
    return true;
  }

  // Of the transfer: its chain, its accounts' sums, its kind.
  bool NextTransfer(Rows& rows) {
    if (!rows.Next()) return false;
    ++transfers_;
    transfer_ = {.debit_account = rows.Int(1),
                 .credit_account = rows.Int(2),
                 .amount_micro = rows.Int(3),
                 .kind = static_cast<TransferKind>(rows.Int(4)),
                 .source = rows.Int(5),
                 .reference = rows.Text(6),
                 .booked_us = rows.Int(7)};
    const int64_t seq = rows.Int(0);
    if (seq != transfer_seq_ + 1) {
      findings_.Add(check::kTransferChain, absl::StrCat("transfer ", transfer_seq_ + 1), "is missing");
    } else if (TransferHash(transfer_hash_, seq, transfer_) != rows.View(8)) {
      findings_.Add(check::kTransferChain, absl::StrCat("transfer ", seq), "is not what was written",
                    PartyOf(transfer_.debit_account, transfer_.credit_account));
    }
    transfer_seq_ = seq;
    transfer_hash_ = rows.Text(8);
    sums_[transfer_.debit_account].debit += transfer_.amount_micro;
    sums_[transfer_.credit_account].credit += transfer_.amount_micro;
    CheckKind(seq);
    posting_ = {seq, transfer_.debit_account, transfer_.credit_account, transfer_.amount_micro, transfer_.kind};
    source_ = transfer_.source;
    return true;
  }

  void CheckKind(int64_t seq) {
    const auto debit = accounts_.find(transfer_.debit_account), credit = accounts_.find(transfer_.credit_account);
    const KindRule rule = RuleOf(transfer_.kind);
    if (debit != accounts_.end() && credit != accounts_.end() && debit->second.currency == credit->second.currency &&
        (rule.debit == nullptr || debit->second.type == rule.debit) &&
        (rule.credit == nullptr || credit->second.type == rule.credit)) {
      return;
    }
    const auto name = [&](int64_t number) {
      const auto found = accounts_.find(number);
      return found == accounts_.end()
                 ? absl::StrCat("account ", number, " (missing)")
                 : absl::StrCat("account ", number, " (", found->second.type, " ", found->second.currency, ")");
    };
    findings_.Add(check::kAccounts, absl::StrCat("transfer ", seq),
                  absl::StrCat("a ", TransferKindName(transfer_.kind), " cannot go from ",
                               name(transfer_.debit_account), " to ", name(transfer_.credit_account)),
                  PartyOf(transfer_.debit_account, transfer_.credit_account));
  }

  // ---- one event ----

  void CheckEventChain(const UsageEvent& event, const std::vector<RatedHop>& hops, absl::string_view hash) {
    if (event.seq != event_seq_ + 1) {
      findings_.Add(check::kUsageChain, absl::StrCat("usage_event ", event_seq_ + 1), "is missing");
    } else if (EventHash(event_hash_, event, hops) != hash) {
      findings_.Add(check::kUsageChain, absl::StrCat("usage_event ", event.seq),
                    absl::StrCat("it or rating ", event.seq, "/* is not what was written"), event.party_no);
    }
    event_seq_ = event.seq;
    event_hash_ = std::string(hash);
  }

  void Event(const UsageEvent& event, const std::vector<RatedHop>& hops) {
    const std::vector<UsagePart> parts = BilledParts(db_, event);
    for (size_t level = 0; level < hops.size(); ++level) {
      Rate(event, static_cast<int64_t>(level), hops[level], parts);
      Book(event, static_cast<int64_t>(level), hops[level]);
    }
    for (const Posting& posting : postings_) {
      if (posting.used) continue;
      const bool loss = posting.kind == TransferKind::kUnbilled || TypeOf(posting.credit) == "unbilled_loss";
      if (!loss) OrphanPosting(posting);
    }
  }

  void Rate(const UsageEvent& event, int64_t level, const RatedHop& hop, const std::vector<UsagePart>& parts) {
    const PlanTerms* terms = Terms(hop.version_no);
    const std::string* model = Model(event.model_no);
    const auto wrong = [&](std::string detail) {
      findings_.Add(check::kRated, RatingName(event.seq, level), std::move(detail), hop.buyer_no);
    };
    if (terms == nullptr || model == nullptr) return wrong("no such version or model");
    __int128& gross_before = gross_[std::tuple(hop.buyer_no, hop.period, hop.version_no)];
    __int128 gross = 0;
    for (const UsagePart& part : parts) {
      const auto before = [&](int line) { return lines_[std::tuple(hop.buyer_no, hop.period, hop.version_no, line)]; };
      absl::StatusOr<std::vector<Charge>> charges =
          billing::Rate(terms->lines, *model, part.context, part.quantities, before);
      if (!charges.ok()) return wrong(std::string(charges.status().message()));
      for (const Charge& charge : *charges) {
        if (terms->lines[static_cast<size_t>(charge.line)].mode != TierMode::kFlat) {
          lines_[std::tuple(hop.buyer_no, hop.period, hop.version_no, charge.line)] += charge.quantity;
        }
        Sum& sum = rollups_[Key{hop.buyer_no, hop.period, hop.version_no, charge.line, event.model_no}];
        sum.quantity += charge.quantity;
        sum.amount += charge.amount_pico;
        gross += charge.amount_pico;
      }
    }
    const int64_t net = terms->allowance_micro == 0
                            ? static_cast<int64_t>(gross)
                            : BeyondAllowance(gross_before, static_cast<int64_t>(gross), terms->allowance_micro);
    gross_before += gross;
    if (net == hop.amount_pico) return;
    wrong(absl::StrCat("booked ", hop.amount_pico, " pico-units, rated again ", net));
  }

  // That the postings of a hop are what its amount and the residue before it make. Losses of the house belong to none.
  void Book(const UsageEvent& event, int64_t level, const RatedHop& hop) {
    const PlanTerms* terms = Terms(hop.version_no);
    if (terms == nullptr) return;
    const auto customer = customers_.find({hop.buyer_no, terms->currency});
    const int64_t account = customer == customers_.end() ? 0 : customer->second;
    int64_t& residue = residues_[account];
    const int64_t expected = PostableMicro(hop.amount_pico, &residue);
    __int128 posted = 0, held = 0, returned = 0;
    std::string seqs;
    for (Posting& posting : postings_) {
      const bool back = posting.kind == TransferKind::kUsageReturned;
      const int64_t revenue = back ? posting.debit : posting.credit, other = back ? posting.credit : posting.debit;
      if (posting.used || PartyNoOf(revenue) != hop.seller_no || posting.kind == TransferKind::kUnbilled) continue;
      if (other != account && TypeOf(other) != "late_unheld") continue;
      posting.used = true;
      posted += back ? -posting.micro : posting.micro;
      if (other == account) (back ? returned : held) += posting.micro;
      absl::StrAppend(&seqs, seqs.empty() ? "" : ", ", posting.seq);
    }
    // The tenant's own; of its resellers usage takes what is free as well.
    if (level == 0 && held != 0) {
      taken_.by_party[event.party_no] += held;
      taken_.by_key[event.key_no] += held;
    }
    if (level == 0 && returned != 0) taken_.returned[event.seq] = {event.key_no, event.ended_us, returned};
    if (posted == expected) return;
    findings_.Add(check::kBooked, RatingName(event.seq, level),
                  absl::StrCat("expected ", expected, " micro-units posted, found ", static_cast<int64_t>(posted),
                               " (transfer ", seqs.empty() ? "none" : seqs, ")"),
                  hop.buyer_no);
  }

  void OrphanRating() {
    findings_.Add(check::kBooked, RatingName(rating_.event_seq, rating_.level), "its usage is not there",
                  rating_.hop.buyer_no);
  }
  void OrphanPosting(const Posting& posting) {
    findings_.Add(check::kBooked, absl::StrCat("transfer ", posting.seq), "is for usage that is not there",
                  PartyOf(posting.debit, posting.credit));
  }

  // ---- sums ----

  void CompareAccounts() {
    std::map<std::string, Sums> totals;
    for (const auto& [number, account] : accounts_) {
      const Sums& s = sums_[number];
      const std::string row = absl::StrCat("account ", number);
      if (account.debit_micro != s.debit || account.credit_micro != s.credit) {
        findings_.Add(check::kAccounts, row, BeyondTransfers(account, s.debit, s.credit), account.party_no);
      }
      const auto residue = residues_.find(number);
      const int64_t left = residue == residues_.end() ? 0 : residue->second;
      if (account.residue_pico != left || account.residue_pico <= -kResidueLimit ||
          account.residue_pico >= kResidueLimit) {
        findings_.Add(
            check::kBooked, row,
            absl::StrCat("the residue is ", Beyond(static_cast<__int128>(account.residue_pico) - left, "pico-units"),
                         " what usage and ledger leave"),
            account.party_no);
      }
      totals[account.currency].debit += account.debit_micro;
      totals[account.currency].credit += account.credit_micro;
    }
    findings_.Figures(check::kAccounts, absl::StrCat(accounts_.size(), " accounts"));
    std::string figures;
    for (const auto& [currency, total] : totals) {
      if (total.debit != total.credit) {
        findings_.Add(check::kBalanced, currency,
                      absl::StrCat("debits ", static_cast<int64_t>(total.debit), ", credits ",
                                   static_cast<int64_t>(total.credit)));
      }
      absl::StrAppend(&figures, figures.empty() ? "" : ", ", currency, " ", static_cast<int64_t>(total.debit),
                      " micro-units each");
    }
    findings_.Figures(check::kBalanced, figures.empty() ? "no money yet" : figures);
  }

  void CompareRollups() {
    const auto name = [](const Key& k) {
      return absl::StrCat("usage_rollup buyer ", k.buyer, ", period ", k.period, ", version ", k.version, ", line ",
                          k.line, ", model ", k.model);
    };
    Rows rows = db_.Query(
        "SELECT buyer_no, period, version_no, position, model_no, quantity, amount_units, amount_pico "
        "FROM usage_rollup");
    while (rows.Next()) {
      const Key key{rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4)};
      Sum& sum = rollups_[key];
      sum.compared = true;
      const __int128 amount = static_cast<__int128>(rows.Int(6)) * kPicoPerUnit + rows.Int(7);
      if (sum.quantity == rows.Int(5) && sum.amount == amount) continue;
      findings_.Add(check::kRollups, name(key),
                    absl::StrCat("the quantity is ", Beyond(static_cast<__int128>(rows.Int(5)) - sum.quantity, "units"),
                                 " its events give", sum.amount == amount ? "" : "; its amount is not theirs either"),
                    key.buyer);
    }
    for (const auto& [key, sum] : rollups_) {
      if (!sum.compared) findings_.Add(check::kRollups, name(key), "is missing", key.buyer);
    }
    findings_.Figures(check::kRollups, absl::StrCat(rollups_.size(), " roll-ups"));
  }

  // ---- what is looked up ----

  static std::string RatingName(int64_t event_seq, int64_t level) {
    return absl::StrCat("rating ", event_seq, "/", level);
  }
  int64_t PartyNoOf(int64_t account) const {
    const auto found = accounts_.find(account);
    return found == accounts_.end() ? 0 : found->second.party_no;
  }
  absl::string_view TypeOf(int64_t account) const {
    const auto found = accounts_.find(account);
    return found == accounts_.end() ? absl::string_view() : found->second.type;
  }
  // The customer of a transfer; 0 when there is none.
  int64_t PartyOf(int64_t debit, int64_t credit) const {
    for (const int64_t account : {debit, credit}) {
      if (TypeOf(account) == "customer") return PartyNoOf(account);
    }
    return 0;
  }

  const PlanTerms* Terms(int64_t version_no) {
    auto& known = terms_[version_no];
    if (known == nullptr) {
      Id16 id;
      {
        Rows rows = db_.Query("SELECT plan_version_id FROM plan_version WHERE version_no = ?", version_no);
        if (!rows.Next()) return nullptr;
        id = rows.Id(0);
      }
      absl::StatusOr<PlanTerms> read = ReadTerms(db_, id);
      if (!read.ok()) return nullptr;
      known = std::make_unique<PlanTerms>(*std::move(read));
    }
    return known.get();
  }
  const std::string* Model(int64_t model_no) {
    if (models_.empty()) {
      Rows rows = db_.Query("SELECT model_no, name FROM model");
      while (rows.Next()) models_[rows.Int(0)] = rows.Text(1);
    }
    auto found = models_.find(model_no);
    return found == models_.end() ? nullptr : &found->second;
  }

  Database& db_;
  Findings& findings_;
  AuditedAccounts accounts_;
  std::map<std::pair<int64_t, std::string>, int64_t> customers_;  // account by party and currency
  absl::flat_hash_map<int64_t, int64_t> residues_;                // by customer account
  absl::flat_hash_map<int64_t, Sums> sums_;                       // of transfers, by account
  absl::flat_hash_map<int64_t, std::unique_ptr<PlanTerms>> terms_;
  absl::flat_hash_map<int64_t, std::string> models_;
  absl::flat_hash_map<Key, Sum> rollups_;
  absl::flat_hash_map<std::tuple<int64_t, int64_t, int64_t, int>, int64_t> lines_;  // units of lines with tiers
  absl::flat_hash_map<std::tuple<int64_t, int64_t, int64_t>, __int128> gross_;      // before allowances

  CreditTaken taken_;

  int64_t event_seq_ = 0, transfer_seq_ = 0, transfers_ = 0, ratings_ = 0;
  std::string event_hash_, transfer_hash_;
  RatingRow rating_;   // where the cursor of ratings stands
  Transfer transfer_;  // where the cursor of transfers stands, and as a posting
  Posting posting_;
  int64_t source_ = 0;             // of it
  std::vector<Posting> postings_;  // of the event at hand
};

}  // namespace

CreditTaken CheckUsageAndTransfers(Database& db, Findings* findings) {
  return BooksPass(db, findings).Run();
}

}  // namespace gantry::billing
