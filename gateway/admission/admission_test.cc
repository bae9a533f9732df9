#include "gateway/admission/admission.h"

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gantry/v1/billing.pb.h"
#include "gantry/v1/lease.pb.h"
#include "gateway/testing/fake_credit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/api_key.h"

namespace gantry::gateway {
namespace {

using ::testing::HasSubstr;

// ---- windows ----

TEST(RateWindowTest, BeginsWithItsFirstUseAndEndsAMinuteLater) {
  RateWindow window;
  const absl::Duration start = absl::Seconds(1000);
  EXPECT_EQ(window.reset(start), absl::ZeroDuration());
  EXPECT_TRUE(window.Fits(start, 10, 10));
  EXPECT_FALSE(window.Fits(start, 11, 10));
  window.Take(start, 8);
  EXPECT_FALSE(window.Fits(start + absl::Seconds(59), 3, 10));
  EXPECT_EQ(window.reset(start + absl::Seconds(59)), absl::Seconds(1));
  EXPECT_TRUE(window.Fits(start + absl::Seconds(60), 10, 10));
}

TEST(RateWindowTest, WhatWasNotUsedIsGivenBackAndAnExcessIsOwed) {
  RateWindow window;
  absl::Duration now = absl::Seconds(1000);
  window.Take(now, 100);
  window.Correct(now, now, 100, 30);
  EXPECT_EQ(window.used(now), 30U);
  window.Correct(now, now, 10, 50);
  EXPECT_EQ(window.used(now), 70U);
  // Too much taken in a window that is over changes nothing in the next.
  const absl::Duration later = now + absl::Seconds(90);
  window.Take(later, 5);
  window.Correct(later, now, 70, 0);
  EXPECT_EQ(window.used(later), 5U);
}

// ---- keys ----

TEST(KeyTableTest, AddressRangesAndGlobs) {
  struct Row {
    const char* range;
    const char* address;
    bool inside;
  };
  for (const Row& row : {Row{"10.0.0.0/8", "10.255.1.2", true}, Row{"10.0.0.0/8", "11.0.0.1", false},
                         Row{"192.168.1.7", "192.168.1.7", true}, Row{"192.168.1.7", "192.168.1.8", false},
                         Row{"::1", "::1", true}, Row{"fd00::/8", "fd12::1", true}, Row{"fd00::/8", "fe80::1", false},
                         Row{"0.0.0.0/0", "203.0.113.9", true}, Row{"10.0.0.0/8", "not an address", false}}) {
    Cidr cidr;
    ASSERT_TRUE(Cidr::Parse(row.range, &cidr));
    EXPECT_EQ(cidr.Contains(row.address), row.inside) << row.range << " " << row.address;
  }
  Cidr ignored;
  for (const char* bad : {"", "10.0.0.0/33", "10.0.0/8", "::1/129", "10.0.0.0/x", "localhost"}) {
    EXPECT_FALSE(Cidr::Parse(bad, &ignored)) << bad;
  }
  EXPECT_TRUE(MatchesGlob("*", "anything"));
  EXPECT_TRUE(MatchesGlob("demo-*", "demo-7b"));
  EXPECT_TRUE(MatchesGlob("*-7b*x", "a-7b--x"));
  EXPECT_FALSE(MatchesGlob("demo-*", "demo"));
  EXPECT_FALSE(MatchesGlob("", "demo"));
}

class AdmissionTest : public ::testing::Test {
 protected:
  AdmissionTest() {
    CreditBook::Options options;
    options.slice_micro = 1'000'000;
    options.monotonic = [this] { return now_; };
    book_ = CreditBook::Create(std::move(options), &credit_);
    admission_ = Admission::Create(
        &keys_, &prices_, book_, [this] { return now_; }, [this] { return wall_; });
    v1::PriceEvent prices;
    v1::TenantPrices* tenant = prices.mutable_snapshot()->add_tenants();
    tenant->set_party_id(party_.ToBytes());
    tenant->set_plan_version_id(std::string(16, 'v'));
    for (const auto& [token_class, price] :
         {std::pair{v1::TOKEN_CLASS_INPUT, 200'000}, {v1::TOKEN_CLASS_OUTPUT, 800'000}}) {
      v1::PriceLine* line = tenant->add_lines();
      line->set_model_glob("demo");
      line->set_token_class(token_class);
      line->set_price_micro_per_m(price);
    }
    prices_.Apply(prices);
    book_->Refill(party_, 100, [](const absl::Status&) {});
    credit_.Answer();
  }

  // A key with these limits, known to the table; `text_` is what its owner sends.
  std::shared_ptr<const KeyInfo> Key(const std::function<void(v1::KeyRecord*)>& limits = nullptr) {
    const NewApiKey made = MakeApiKey("live");
    text_ = std::string(made.text.Reveal());
    v1::KeyEvent event;
    v1::KeyRecord* record = snapshot_sent_ ? event.mutable_upsert() : event.mutable_snapshot()->add_keys();
    if (!snapshot_sent_) event.mutable_snapshot()->set_pepper(pepper_);
    snapshot_sent_ = true;
    record->set_key_id(NewTimeOrderedId().ToBytes());
    record->set_public_id(made.public_id);
    record->set_secret_hmac(HmacOfSecret(Secret(pepper_), made.secret));
    record->set_party_id(party_.ToBytes());
    record->set_party_name("demo");
    record->set_party_status(v1::PARTY_STATUS_ACTIVE);
    if (limits) limits(record);
    record_ = *record;
    keys_.Apply(event);
    return keys_.Find(*Id16::FromBytes(record->key_id()));
  }
  void Change(const std::function<void(v1::KeyRecord*)>& change) {
    change(&record_);
    v1::KeyEvent event;
    *event.mutable_upsert() = record_;
    keys_.Apply(event);
  }
  static AdmissionRequest Request(std::shared_ptr<const KeyInfo> key, uint64_t prompt = 100,
                                  uint64_t max_tokens = 100) {
    AdmissionRequest request;
    request.key = std::move(key);
    request.model = "demo";
    request.address = "127.0.0.1";
    request.prompt_tokens = prompt;
    request.max_tokens = max_tokens;
    return request;
  }
  std::unique_ptr<Permit> Admit(const AdmissionRequest& request) {
    auto decision = admission_->Admit(request);
    auto* permit = std::get_if<std::unique_ptr<Permit>>(&decision);
    return permit == nullptr ? nullptr : std::move(*permit);
  }
  // Name of the refusal, "" when it was admitted, "credit" when money is needed.
  std::string Refused(const AdmissionRequest& request, Refusal* out = nullptr) {
    auto decision = admission_->Admit(request);
    if (std::holds_alternative<NeedsCredit>(decision)) return "credit";
    auto* refusal = std::get_if<Refusal>(&decision);
    if (refusal == nullptr) return "";
    if (out != nullptr) *out = *refusal;
    return RefusalName(refusal->reason);
  }

  const Id16 party_ = *Id16::FromHex("000000000000000000000000000000aa");
  const std::string pepper_ = std::string(32, 'p');
  absl::Duration now_ = absl::Hours(3);
  absl::Time wall_ = absl::FromUnixSeconds(1'800'000'000);
  KeyTable keys_{[this] { return now_; }};
  PriceTable prices_;
  FakeCredit credit_{10'000'000};
  std::shared_ptr<CreditBook> book_;
  std::shared_ptr<Admission> admission_;
  std::string text_;
  v1::KeyRecord record_;
  bool snapshot_sent_ = false;
};

TEST_F(AdmissionTest, AuthenticationNeedsTheWholeSecretAndFreshKeys) {
  auto result = admission_->Authenticate("gk_live_nobody");
  EXPECT_EQ(std::get<Refusal>(result).reason, RefusalReason::kStaleKeys) << "no snapshot yet";
  Key();
  EXPECT_TRUE(std::holds_alternative<std::shared_ptr<const KeyInfo>>(admission_->Authenticate(text_)));
  const std::string other = std::string(MakeApiKey("live").text.Reveal());
  EXPECT_EQ(std::get<Refusal>(admission_->Authenticate(other)).reason, RefusalReason::kInvalidKey);
  now_ += absl::Seconds(61);
  EXPECT_EQ(std::get<Refusal>(admission_->Authenticate(text_)).reason, RefusalReason::kStaleKeys);
  v1::KeyEvent beat;
  beat.mutable_heartbeat();
  keys_.Apply(beat);
  EXPECT_TRUE(std::holds_alternative<std::shared_ptr<const KeyInfo>>(admission_->Authenticate(text_)));
  Change([](v1::KeyRecord* record) { record->set_revoked(true); });
  EXPECT_EQ(std::get<Refusal>(admission_->Authenticate(text_)).reason, RefusalReason::kInvalidKey);
}

TEST_F(AdmissionTest, RulesThatNeedNoCounting) {
  struct Row {
    std::function<void(v1::KeyRecord*)> limits;
    std::string refused;
  };
  const int64_t now_us = absl::ToUnixMicros(wall_);
  const std::vector<Row> rows = {
      {[](v1::KeyRecord*) {}, ""},
      {[&](v1::KeyRecord* r) { r->set_expires_us(now_us); }, "expired_key"},
      {[&](v1::KeyRecord* r) { r->set_expires_us(now_us + 1); }, ""},
      {[](v1::KeyRecord* r) { r->set_revoked(true); }, "invalid_key"},
      {[](v1::KeyRecord* r) { r->set_party_status(v1::PARTY_STATUS_SUSPENDED); }, "suspended"},
      {[](v1::KeyRecord* r) { r->add_scopes("embeddings"); }, "scope"},
      {[](v1::KeyRecord* r) { r->add_scopes("inference"); }, ""},
      {[](v1::KeyRecord* r) { r->add_models("large*"); }, "model"},
      {[](v1::KeyRecord* r) { r->add_models("d*"); }, ""},
      {[](v1::KeyRecord* r) { r->add_cidrs("10.0.0.0/8"); }, "address"},
      {[](v1::KeyRecord* r) { r->add_cidrs("127.0.0.0/8"); }, ""},
      {[](v1::KeyRecord* r) { r->add_cidrs("malformed"); }, "address"},
  };
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(Refused(Request(Key(rows[i].limits))), rows[i].refused) << i;
  AdmissionRequest unpriced = Request(Key());
  unpriced.model = "other";
  EXPECT_EQ(Refused(unpriced), "no_price");
}

TEST_F(AdmissionTest, ARefusalHasConsumedNothing) {
  const auto key = Key([](v1::KeyRecord* r) {
    r->set_requests_per_minute(1);
    r->set_tokens_per_minute(1000);
  });
  const CreditBook::Totals before = book_->TotalsOf(party_);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Refused(Request(key, 2000)), "tokens");
  EXPECT_EQ(book_->TotalsOf(party_).held_micro, before.held_micro);
  EXPECT_EQ(Refused(Request(key)), "") << "the one request is still there";
}

TEST_F(AdmissionTest, TokensNotUsedAreGivenBack) {
  const auto key = Key([](v1::KeyRecord* r) { r->set_tokens_per_minute(500); });
  auto permit = Admit(Request(key, 200, 200));
  ASSERT_NE(permit, nullptr);
  EXPECT_EQ(permit->limits().tokens_used, 400U);
  Refusal refusal;
  EXPECT_EQ(Refused(Request(key, 100, 100), &refusal), "tokens");
  EXPECT_THAT(refusal.message, HasSubstr("limit 500, used 400, requested 200"));
  EXPECT_EQ(refusal.limits.tokens_limit, 500U);
  EXPECT_EQ(refusal.retry_after, absl::Seconds(60));
  permit->Settle(200, 0, 10);
  permit.reset();
  EXPECT_EQ(Refused(Request(key, 100, 100)), "");
}

TEST_F(AdmissionTest, TheFirstHoldCoversThePromptAndTheFirstTokensOnly) {
  auto permit = Admit(Request(Key(), 1000, 100'000));
  ASSERT_NE(permit, nullptr);
  // 1000 x 0.2 + 256 x 0.8 micro-units, rounded up.
  EXPECT_EQ(permit->hold().held_micro(), 405);
  EXPECT_TRUE(permit->ExtendOutput(256));
  EXPECT_EQ(permit->hold().held_micro(), 405 + 205);
  permit->Settle(1000, 0, 300);
  permit.reset();
  EXPECT_EQ(book_->TotalsOf(party_).spent_micro, 440);
  EXPECT_EQ(book_->TotalsOf(party_).held_micro, 0);
}

TEST_F(AdmissionTest, AKeyWithABudgetSpendsMoneyOfItsOwn) {
  const auto key = Key([](v1::KeyRecord* r) { r->set_budget_micro(250); });
  auto decision = admission_->Admit(Request(key));
  const auto* need = std::get_if<NeedsCredit>(&decision);
  ASSERT_NE(need, nullptr) << "the tenant's slice is not the key's";
  EXPECT_EQ(need->purse, Purse(party_, key->key_id));
  EXPECT_EQ(need->minimum_micro(), 100);
  book_->Refill(need->purse, 100, [](const absl::Status&) {});
  credit_.Answer();
  EXPECT_EQ(Refused(Request(key)), "");
  const Refusal spent = Admission::CreditRefusal(absl::OutOfRangeError("the budget of this key is spent"));
  EXPECT_EQ(spent.reason, RefusalReason::kKeyBudget);
  EXPECT_THAT(spent.message, HasSubstr("the budget of this key is spent"));
}

TEST_F(AdmissionTest, AReservedHoldPaysForItsRequest) {
  credit_.set_reserve(true);
  const auto key = Key();
  now_ += absl::Hours(2);  // the slice is over
  v1::KeyEvent beat;
  beat.mutable_heartbeat();
  keys_.Apply(beat);
  auto decision = admission_->Admit(Request(key));
  const auto* need = std::get_if<NeedsCredit>(&decision);
  ASSERT_NE(need, nullptr);
  std::unique_ptr<CreditBook::Hold> hold;
  book_->Obtain(*need, NewTimeOrderedId(),
                [&](absl::StatusOr<std::unique_ptr<CreditBook::Hold>> got) { hold = *std::move(got); });
  credit_.Answer();
  ASSERT_NE(hold, nullptr);
  auto again = admission_->Admit(Request(key), std::move(hold));
  auto* permit = std::get_if<std::unique_ptr<Permit>>(&again);
  ASSERT_NE(permit, nullptr);
  EXPECT_TRUE((*permit)->hold().reserved());
  permit->reset();
  credit_.Answer();
  EXPECT_EQ(credit_.holds(), 0U) << "void: nothing was delivered";
}

TEST_F(AdmissionTest, FurtherPromptsOfARequestAreNotRequests) {
  const auto key = Key([](v1::KeyRecord* r) {
    r->set_requests_per_minute(1);
    r->set_concurrency(1);
  });
  auto first = Admit(Request(key));
  AdmissionRequest more = Request(key);
  more.counts_as_request = false;
  auto second = Admit(more);
  EXPECT_NE(second, nullptr);
  EXPECT_EQ(Refused(Request(key)), "concurrency");
  first.reset();
  EXPECT_EQ(Refused(Request(key)), "requests");
}

TEST_F(AdmissionTest, RevocationReachesRunningRequests) {
  const auto key = Key();
  auto running = Admit(Request(key));
  auto silent = Admit(Request(key));
  int wakes = 0;
  running->OnRevoked([&] { ++wakes; });
  Change([](v1::KeyRecord* record) { record->set_concurrency(7); });
  EXPECT_FALSE(running->revoked());
  Change([](v1::KeyRecord* record) { record->set_revoked(true); });
  EXPECT_TRUE(running->revoked());
  EXPECT_TRUE(silent->revoked());
  EXPECT_EQ(wakes, 1);
  int late = 0;
  silent->OnRevoked([&] { ++late; });
  EXPECT_EQ(late, 1) << "told at once when it has happened already";
}

TEST_F(AdmissionTest, AKeyThatIsRemovedOrASnapshotWithoutItRevokesToo) {
  const auto key = Key();
  auto permit = Admit(Request(key));
  v1::KeyEvent removed;
  removed.set_removed_key_id(key->key_id.ToBytes());
  keys_.Apply(removed);
  EXPECT_TRUE(permit->revoked());
  const auto other = Key();
  auto second = Admit(Request(other));
  v1::KeyEvent snapshot;
  snapshot.mutable_snapshot()->set_pepper(pepper_);
  keys_.Apply(snapshot);
  EXPECT_TRUE(second->revoked());
}

TEST_F(AdmissionTest, AKeyThatWasRevokedStaysSoWhateverRestoredBooksSay) {
  const auto key = Key();
  v1::KeyEvent before;
  before.mutable_snapshot()->set_pepper(pepper_);
  *before.mutable_snapshot()->add_keys() = record_;
  Change([](v1::KeyRecord* record) { record->set_revoked(true); });
  keys_.Apply(before);  // billing is back from a backup that is older than the revocation
  EXPECT_EQ(Refused(Request(keys_.Find(key->key_id))), "invalid_key");
  EXPECT_EQ(keys_.Revoked(10), std::vector<Id16>{key->key_id});
}

TEST_F(AdmissionTest, ExpiryDoesNotTouchWhatRuns) {
  const auto key = Key([&](v1::KeyRecord* r) { r->set_expires_us(absl::ToUnixMicros(wall_ + absl::Seconds(1))); });
  auto permit = Admit(Request(key));
  wall_ += absl::Seconds(2);
  EXPECT_FALSE(permit->revoked());
  EXPECT_EQ(Refused(Request(key)), "expired_key");
}

TEST_F(AdmissionTest, LimitsHoldUnderManyThreads) {
  const auto key = Key([](v1::KeyRecord* r) {
    r->set_concurrency(4);
    r->set_requests_per_minute(1000);
  });
  std::atomic<int> admitted{0}, running{0}, most{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 10; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 400; ++i) {
        auto permit = Admit(Request(key, 10, 10));
        if (permit == nullptr) continue;
        ++admitted;
        const int now = ++running;
        int seen = most;
        while (seen < now && !most.compare_exchange_weak(seen, now)) {
        }
        if (i % 2 == 0) permit->Settle(10, 0, 5);
        --running;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 4);
  EXPECT_LE(admitted, 1000);
  EXPECT_EQ(admission_->active(), 0);
  EXPECT_EQ(book_->TotalsOf(party_).held_micro, 0);
}

// ---- limits over several gateways ----

// An admission that takes orders from billing, as the test gives them.
class LeasedTest : public AdmissionTest {
 protected:
  LeasedTest() {
    admission_ = Admission::Create(
        &keys_, &prices_, book_, [this] { return now_; }, [this] { return wall_; },
        [this](const v1::GatewayReport& report) {
          if (!connected_) return false;
          reports_.push_back(report);
          return true;
        });
  }
  void SetMode(bool alone, const std::vector<v1::KeyWindow>& windows = {}) {
    v1::GatewayOrder order;
    order.mutable_mode()->set_number(++modes_);
    order.mutable_mode()->set_alone(alone);
    for (const v1::KeyWindow& window : windows) *order.mutable_mode()->add_windows() = window;
    admission_->Obey(order);
  }
  // Asks for what the request needs; the refusal's name, "" when it should be tried again, "waiting" without an answer.
  std::string* Lease(const AdmissionRequest& request) {
    auto decision = admission_->Admit(request);
    auto* needs = std::get_if<NeedsPermits>(&decision);
    EXPECT_NE(needs, nullptr) << Refused(request);
    auto& ended = *ended_.emplace_back(std::make_unique<std::string>("waiting"));
    if (needs != nullptr) {
      admission_->Lease(*needs, [&ended](std::optional<Refusal> refusal) {
        ended = refusal.has_value() ? RefusalName(refusal->reason) : "";
      });
    }
    return &ended;
  }
  // Answers the last request for permits.
  void Answer(uint64_t requests, uint64_t tokens, uint32_t slots,
              v1::WindowLimit refused = v1::WINDOW_LIMIT_UNSPECIFIED, uint64_t window = 7) {
    v1::GatewayOrder order;
    v1::PermitAnswer* answer = order.mutable_permit_answer();
    answer->set_number(reports_.back().permit_request().number());
    answer->set_key_id(reports_.back().permit_request().key_id());
    answer->set_requests(requests);
    answer->set_tokens(tokens);
    answer->set_slots(slots);
    answer->set_refused(refused);
    answer->set_requests_used(10);
    answer->set_tokens_used(1000);
    answer->set_slots_used(4);
    answer->set_requests_left_ms(30'000);
    answer->set_tokens_left_ms(30'000);
    answer->set_requests_window(window);
    answer->set_tokens_window(window);
    admission_->Obey(order);
  }
  const v1::PermitReturn& Recall(const Id16& key) {
    v1::GatewayOrder order;
    order.mutable_permit_recall()->set_number(3);
    order.mutable_permit_recall()->set_key_id(key.ToBytes());
    admission_->Obey(order);
    return reports_.back().permit_return();
  }
  std::shared_ptr<const KeyInfo> LimitedKey() {
    return Key([](v1::KeyRecord* r) {
      r->set_requests_per_minute(10);
      r->set_tokens_per_minute(1000);
      r->set_concurrency(4);
    });
  }

  bool connected_ = true;
  uint64_t modes_ = 0;
  std::vector<v1::GatewayReport> reports_;
  std::vector<std::unique_ptr<std::string>> ended_;
};

TEST_F(LeasedTest, UntilBillingHasSaidHowToCountKeysWithLimitsWaitAndOthersDoNot) {
  EXPECT_FALSE(admission_->windows_known());
  EXPECT_EQ(Refused(Request(Key())), "") << "no limits";
  const auto key = LimitedKey();
  const std::string* waiting = Lease(Request(key));
  EXPECT_EQ(*waiting, "waiting");
  SetMode(/*alone=*/true);
  EXPECT_EQ(*waiting, "") << "try again";
  EXPECT_EQ(Refused(Request(key)), "");
  EXPECT_TRUE(reports_.empty()) << "alone it asks nobody";
}

TEST_F(LeasedTest, AloneEndsAMinuteAfterTheLastOrder) {
  const auto key = LimitedKey();
  SetMode(true);
  now_ += absl::Seconds(60);
  v1::KeyEvent beat;
  beat.mutable_heartbeat();
  keys_.Apply(beat);
  EXPECT_TRUE(admission_->windows_known());
  now_ += absl::Milliseconds(1);
  EXPECT_FALSE(admission_->windows_known());
  v1::GatewayOrder order;
  order.mutable_beat();
  admission_->Obey(order);
  EXPECT_TRUE(admission_->windows_known()) << "and goes on with the next, its counts kept";
}

TEST_F(LeasedTest, WhatWasCountedAloneIsReportedWhenASecondGatewayComes) {
  const auto key = LimitedKey();
  SetMode(true);
  auto running = Admit(Request(key, 100, 100));
  now_ += absl::Seconds(5);
  SetMode(/*alone=*/false);
  ASSERT_EQ(reports_.size(), 1U);
  const v1::WindowReport& report = reports_[0].windows();
  EXPECT_EQ(report.mode_number(), 2U);
  ASSERT_EQ(report.windows_size(), 1);
  EXPECT_EQ(report.windows(0).requests(), 1U);
  EXPECT_EQ(report.windows(0).requests_age_ms(), 5000U);
  EXPECT_EQ(report.windows(0).tokens(), 200U);
  EXPECT_EQ(report.windows(0).slots(), 1U);
  running->Settle(100, 0, 30);
  running.reset();
  EXPECT_EQ(reports_.size(), 1U) << "less than reserved: nothing is owed";
}

TEST_F(LeasedTest, WhatIsLeasedIsSpentWithoutAsking) {
  const auto key = LimitedKey();
  SetMode(false);
  const std::string* leased = Lease(Request(key, 50, 50));
  const v1::PermitRequest request = reports_.back().permit_request();
  EXPECT_EQ(request.requests(), 1U);
  EXPECT_EQ(request.tokens(), 100U);
  EXPECT_EQ(request.slots(), 1U);
  EXPECT_EQ(request.requests_limit(), 10U);
  Answer(3, 250, 1);
  EXPECT_EQ(*leased, "");
  const size_t asked = reports_.size();
  for (int i = 0; i < 2; ++i) {
    auto permit = Admit(Request(key, 50, 50));
    ASSERT_NE(permit, nullptr) << i;
    permit->Settle(50, 0, 50);
  }
  EXPECT_EQ(reports_.size(), asked);
  Lease(Request(key, 50, 50));
  EXPECT_EQ(reports_.back().permit_request().requests(), 0U) << "one is left";
  EXPECT_EQ(reports_.back().permit_request().tokens(), 100U) << "50 are left: too few";
}

TEST_F(LeasedTest, PermitsEndWithTheirWindow) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  now_ += absl::Seconds(10);
  Answer(3, 500, 1);  // 30 s from sending the request, 20 from now
  now_ += absl::Seconds(19);
  EXPECT_EQ(Refused(Request(key, 50, 50)), "");
  now_ += absl::Seconds(1);
  Lease(Request(key, 50, 50));
  EXPECT_EQ(reports_.back().permit_request().requests(), 1U);
}

TEST_F(LeasedTest, ARefusalByBillingNamesTheLimitOverAllGateways) {
  const auto key = LimitedKey();
  SetMode(false);
  const std::string* refused = Lease(Request(key, 50, 50));
  Answer(0, 0, 0, v1::WINDOW_LIMIT_REQUESTS);
  EXPECT_EQ(*refused, "requests");
  const size_t asked = reports_.size();
  Refusal again;
  EXPECT_EQ(Refused(Request(key, 50, 50), &again), "requests");
  EXPECT_EQ(reports_.size(), asked) << "not asked for every request that comes";
  EXPECT_THAT(again.message, HasSubstr("limit 10, used 10. Resets in 30 s"));
  EXPECT_EQ(again.retry_after, absl::Seconds(30));
  now_ += absl::Milliseconds(251);
  Lease(Request(key, 50, 50));
  EXPECT_EQ(reports_.size(), asked + 1);
  const std::string* unknown = Lease(Request(key, 50, 50));
  Answer(0, 0, 0, v1::WINDOW_LIMIT_UNKNOWN);
  EXPECT_EQ(*unknown, "billing_away");
}

TEST_F(LeasedTest, WhatIsNotUsedGoesBackWhenOthersNeedIt) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  Answer(5, 400, 3);
  auto running = Admit(Request(key, 50, 50));
  const v1::PermitReturn back = Recall(key->key_id);
  EXPECT_EQ(back.number(), 3U);
  EXPECT_EQ(back.requests(), 4U);
  EXPECT_EQ(back.tokens(), 300U);
  EXPECT_EQ(back.slots(), 2U) << "one runs";
  EXPECT_EQ(back.tokens_window(), 7U);
  running->Settle(50, 0, 10);
  running.reset();
  EXPECT_EQ(Recall(key->key_id).tokens(), 40U) << "what was reserved and not used";
}

TEST_F(LeasedTest, WhatAStreamUsedBeyondItsPermitsIsOwed) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  Answer(1, 130, 1);
  auto running = Admit(Request(key, 50, 50));
  running->Settle(50, 0, 200);  // 150 more than reserved, 30 are left
  running.reset();
  EXPECT_EQ(reports_.back().tokens_owed().tokens(), 120U);
}

TEST_F(LeasedTest, IdleSlotsGoBackByThemselves) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  Answer(1, 100, 1);
  Admit(Request(key, 50, 50)).reset();
  const size_t before = reports_.size();
  admission_->Tick();
  EXPECT_EQ(reports_.size(), before);
  now_ += absl::Seconds(5);
  admission_->Tick();
  EXPECT_EQ(reports_.back().permit_return().slots(), 1U);
}

TEST_F(LeasedTest, TheLastGatewayGoesOnWithWhatAllHaveCounted) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  Answer(3, 300, 1);
  Admit(Request(key, 50, 50)).reset();
  v1::KeyWindow all;
  all.set_key_id(key->key_id.ToBytes());
  all.set_requests(9);
  all.set_requests_age_ms(20'000);
  SetMode(/*alone=*/true, {all});
  EXPECT_EQ(Refused(Request(key, 50, 50)), "") << "the tenth";
  Refusal refusal;
  EXPECT_EQ(Refused(Request(key, 50, 50), &refusal), "requests");
  EXPECT_EQ(refusal.retry_after, absl::Seconds(40));
}

TEST_F(LeasedTest, WithoutAStreamALeaseIsSpentAndThenNothingIsAdmitted) {
  const auto key = LimitedKey();
  SetMode(false);
  Lease(Request(key, 50, 50));
  Answer(1, 100, 1);
  const std::string* lost = Lease(Request(key, 90, 90));
  connected_ = false;
  admission_->Broken();
  EXPECT_EQ(*lost, "billing_away");
  EXPECT_EQ(Refused(Request(key, 50, 50)), "");
  EXPECT_EQ(*Lease(Request(key, 50, 50)), "billing_away");
}

// ---- prices ----

TEST_F(AdmissionTest, CostsAreExactAndRoundedUpOnce) {
  const Prices prices = *prices_.Find(party_, "demo", 100);
  EXPECT_EQ(prices.cached, prices.input) << "no line of its own";
  EXPECT_EQ(prices.CostMicro(1, 0, 0), 1);
  EXPECT_EQ(prices.CostMicro(5, 0, 0), 1);
  EXPECT_EQ(prices.CostMicro(6, 0, 0), 2);
  EXPECT_EQ(prices.CostMicro(1'000'000, 0, 1'000'000), 1'000'000);
  EXPECT_EQ(prices.CostMicro(UINT64_MAX, 0, UINT64_MAX), INT64_MAX) << "saturates";
  Prices odd = prices;
  odd.cached = 900'000;
  EXPECT_GE(odd.HoldMicro(1000, 10), odd.CostMicro(1000, 1000, 10)) << "whatever is cached fits the hold";
  odd.request = 5'000'000;
  EXPECT_EQ(odd.OutputMicro(10), 8) << "the price of the request is paid once";
  odd.output_package = 1000;
  EXPECT_EQ(odd.OutputMicro(10), 800) << "a package is opened";
  EXPECT_EQ(odd.OutputMicro(1000), 1600) << "it may have been open already, and full";
}

TEST_F(AdmissionTest, TheLengthOfThePromptChoosesItsPrice) {
  v1::PriceEvent event;
  v1::TenantPrices* tenant = event.mutable_upsert();
  tenant->set_party_id(party_.ToBytes());
  tenant->set_plan_version_id(std::string(16, 'v'));
  for (const auto& [token_class, from, to, price] : {std::tuple(v1::TOKEN_CLASS_INPUT, 0, 200, 5),
                                                     {v1::TOKEN_CLASS_INPUT, 200, 0, 9},
                                                     {v1::TOKEN_CLASS_OUTPUT, 0, 0, 7}}) {
    v1::PriceLine* line = tenant->add_lines();
    line->set_model_glob("*");
    line->set_token_class(token_class);
    line->set_context_from(static_cast<uint64_t>(from));
    line->set_context_to(static_cast<uint64_t>(to));
    line->set_price_micro_per_m(price);
  }
  prices_.Apply(event);
  EXPECT_EQ(prices_.Find(party_, "demo", 199)->input, 5);
  EXPECT_EQ(prices_.Find(party_, "demo", 200)->input, 9);
}

}  // namespace
}  // namespace gantry::gateway
