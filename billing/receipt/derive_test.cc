// Receipts out of the books: of the store's own tables, and of events with several hops that a test makes up.
#include "billing/receipt/derive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "billing/receipt/receipt_desk.h"
#include "billing/receipt/receipt_test_util.h"
#include "billing/testing/books.h"
#include "billing/usage/correct.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHourUs = 3'600'000'000, kDayUs = 24 * kHourUs;

class DeriveTest : public testing::Test {
 protected:
  DeriveTest() { NewRing(); }

  void NewRing() {
    auto ring = ReceiptKeyRing::Open(books_.dir() + "/receipt.keys");
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = *std::move(ring);
  }
  void AddKey() {
    books_.Do([&](Database& db) {
      const int64_t first = AllReceiptKeys(db).empty() ? 1 : source_.last_event_seq(db) + 1;
      return AddReceiptKey(db, ring_.get(), first, books_.now_us()).status();
    });
  }
  ReceiptDeriver Deriver() {
    return ReceiptDeriver({.store = &books_.store(),
                           .ring = ring_.get(),
                           .clock = [this] { return books_.now_us(); },
                           .source = source_,
                           .leaves_max = leaves_max_});
  }
  // One receipt, or the error in its place.
  std::string Get(const Id16& request, const Id16& buyer, bool with_proof = false) {
    ReceiptDeriver deriver = Deriver();
    return Get(&deriver, request, buyer, with_proof);
  }
  static std::string Get(ReceiptDeriver* deriver, const Id16& request, const Id16& buyer, bool with_proof = false) {
    const absl::StatusOr<std::vector<std::string>> documents =
        deriver->Documents(request, buyer, with_proof, [] { return false; });
    return documents.ok() ? absl::StrJoin(*documents, "\n") : std::string(documents.status().message());
  }
  int CloseRoots() {
    const absl::StatusOr<int> closed = Deriver().CloseRoots([] { return false; });
    EXPECT_TRUE(closed.ok()) << closed.status();
    return closed.value_or(-1);
  }
  ReceiptKeys Keys() {
    std::vector<PublicReceiptKey> keys;
    books_.Do([&](Database& db) {
      for (const StoredReceiptKey& stored : AllReceiptKeys(db)) keys.push_back(stored.key);
      return absl::OkStatus();
    });
    return *ReceiptKeys::Parse(ReceiptKeysFile(keys));
  }
  std::string Problem(const std::string& file) { return std::string(VerifyReceipts(file, Keys()).status().message()); }
  Id16 Use(uint64_t output) {
    const Id16 slice = books_.Slice(100'000);
    v1::UsageRecord record = books_.Record(slice, 10, output);
    record.set_output_digest(std::string(32, 'd'));
    EXPECT_EQ(books_.Append(record).record_ids_size(), 1);
    return *Id16::FromBytes(record.request_id());
  }

  Books books_;
  std::unique_ptr<ReceiptKeyRing> ring_;
  ReceiptSource source_ = ReceiptsFromBooks();
  size_t leaves_max_ = kMerkleLeavesMax;
};

TEST_F(DeriveTest, AReceiptSaysWhatTheBooksSay) {
  AddKey();
  const Id16 request = Use(120);
  const std::string document = Get(request, books_.tenant());
  ASSERT_EQ(Problem(document), "");
  const nlohmann::json receipt = ParseCanonicalObject(document)->at("receipt");
  EXPECT_EQ(receipt["tenant"], books_.tenant().ToHex());
  EXPECT_EQ(receipt["buyer"], books_.tenant().ToHex());
  EXPECT_EQ(receipt["model"], "gantry-demo");
  EXPECT_EQ(receipt["input_tokens"], 10);
  EXPECT_EQ(receipt["output_tokens"], 120);
  EXPECT_EQ(receipt["cost_pico"], absl::StrCat(10 * 200'000 + 120 * 800'000));
  EXPECT_EQ(receipt["currency"], "EUR");
  EXPECT_EQ(receipt["plan_version"], books_.plan().ToHex());
  EXPECT_EQ(receipt["output_digest"], absl::BytesToHexString(std::string(32, 'd')));
  EXPECT_FALSE(receipt.contains("prompt_digest"));
  EXPECT_EQ(receipt["number"], "1");
  EXPECT_EQ(Get(request, Id16{}), document) << "nobody named: the tenant";
}

TEST_F(DeriveTest, EachBuyerOfAResaleChainHasItsOwn) {
  AddKey();
  const Id16 first = books_.NewReseller("first", 10'000'000, 250'000);
  const Id16 theirs = books_.NewTenant("theirs", 10'000'000, "first");
  v1::UsageRecord record = books_.Record(books_.SliceOf(theirs, 1'000'000), 0, 1000);
  record.set_party_id(theirs.ToBytes());
  record.set_plan_version_id(books_.PlanOf(theirs).ToBytes());
  ASSERT_EQ(books_.Append(record).record_ids_size(), 1);
  const Id16 request = *Id16::FromBytes(record.request_id());
  const std::string retail = Get(request, theirs), wholesale = Get(request, first);
  EXPECT_EQ(Problem(retail + "\n" + wholesale), "");
  const nlohmann::json paid = ParseCanonicalObject(retail)->at("receipt"),
                       passed_on = ParseCanonicalObject(wholesale)->at("receipt");
  EXPECT_EQ(paid["cost_pico"], absl::StrCat(1000 * 1'000'000));
  EXPECT_EQ(passed_on["cost_pico"], absl::StrCat(1000 * 800'000));
  EXPECT_EQ(paid["seller"], passed_on["buyer"]);
  EXPECT_EQ(passed_on["tenant"], theirs.ToHex());
  EXPECT_THAT(Get(request, books_.tenant()), HasSubstr("is not among the party's usage"));
}

TEST_F(DeriveTest, ACorrectionIsAReceiptOfItsOwn) {
  AddKey();
  const Id16 request = Use(120);
  const std::string before = Get(request, books_.tenant());
  v1::CorrectUsageRequest correct;
  correct.set_request_id(request.ToBytes());
  correct.set_prompt_tokens(10);
  correct.set_output_tokens(100);
  correct.set_reason("counted twice");
  books_.Do([&](Database& db) { return CorrectUsage(db, correct, books_.now_us()).status(); });
  const std::string both = Get(request, books_.tenant());
  EXPECT_EQ(Problem(both), "");
  const std::vector<std::string> lines = absl::StrSplit(both, '\n');
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], before);
  const nlohmann::json correction = ParseCanonicalObject(lines[1])->at("receipt");
  EXPECT_EQ(correction["kind"], "correction");
  EXPECT_EQ(correction["output_tokens"], -20);
  EXPECT_EQ(correction["cost_pico"], absl::StrCat(-20 * 800'000));
  EXPECT_EQ(correction["number"], "2");
}

TEST_F(DeriveTest, RequestsOfNobodyAndOfOthersAreNotFound) {
  AddKey();
  const Id16 request = Use(1), other = books_.NewTenant("other", 0);
  EXPECT_THAT(Get(NewTimeOrderedId(), books_.tenant()), HasSubstr("is not among the party's usage"));
  EXPECT_THAT(Get(request, other), HasSubstr("is not among the party's usage"));
}

TEST_F(DeriveTest, AskedTwiceTheBytesAreTheSame) {
  AddKey();
  std::vector<Id16> requests;
  for (uint64_t i = 0; i < 40; ++i) requests.push_back(Use(i));
  ReceiptDeriver warm = Deriver();
  std::vector<std::string> first;
  for (const Id16& request : requests) first.push_back(Get(&warm, request, books_.tenant()));
  ASSERT_EQ(Problem(absl::StrJoin(first, "\n")), "") << "numbers and hashes follow each other";
  AddKey();  // a later key signs later receipts only
  Use(7);
  books_.Advance(2 * kDayUs);
  ASSERT_EQ(CloseRoots(), 1);
  for (size_t i = requests.size(); i-- > 0;) EXPECT_EQ(Get(&warm, requests[i], books_.tenant()), first[i]);
  books_.Reopen();
  NewRing();
  for (size_t i = requests.size(); i-- > 0;) EXPECT_EQ(Get(requests[i], books_.tenant()), first[i]);
}

TEST_F(DeriveTest, ANewKeySignsWhatComesAfterIt) {
  AddKey();
  const Id16 before = Use(1);
  AddKey();
  const Id16 after = Use(2);
  const std::string one = Get(before, books_.tenant()), two = Get(after, books_.tenant());
  EXPECT_EQ(Problem(one + "\n" + two), "");
  EXPECT_NE(ParseCanonicalObject(one)->at("receipt")["key_id"], ParseCanonicalObject(two)->at("receipt")["key_id"]);
}

TEST_F(DeriveTest, WithoutItsPrivateKeyAReceiptCannotBeMadeAndANewKeyHelpsOn) {
  AddKey();
  const Id16 before = Use(1);
  std::filesystem::remove(books_.dir() + "/receipt.keys");
  NewRing();
  EXPECT_THAT(Get(before, books_.tenant()), HasSubstr("restore the file from a backup"));
  AddKey();
  const Id16 after = Use(2);
  EXPECT_EQ(Problem(Get(after, books_.tenant())), "");
  EXPECT_THAT(Get(before, books_.tenant()), HasSubstr("restore the file from a backup"));
}

TEST_F(DeriveTest, RootsAreClosedDayByDay) {
  AddKey();
  std::vector<Id16> requests;
  for (int day = 0; day < 3; ++day) {
    for (int i = 0; i < 20; ++i) requests.push_back(Use(static_cast<uint64_t>(i)));
    EXPECT_EQ(CloseRoots(), day == 0 ? 0 : 1) << "that of the day before";
    EXPECT_THAT(Get(requests.back(), books_.tenant(), true),
                HasSubstr(absl::StrCat("that of 2026-11-1", day, " is closed at 2026-11-1", day + 1, " 01:00 UTC")));
    books_.Advance(kDayUs);
  }
  books_.Advance(kDayUs);  // a day without receipts has no root
  EXPECT_EQ(CloseRoots(), 1);
  EXPECT_EQ(CloseRoots(), 0);
  std::string file;
  for (const Id16& request : requests) absl::StrAppend(&file, Get(request, books_.tenant(), true), "\n");
  const absl::StatusOr<std::vector<VerifiedLine>> lines = VerifyReceipts(file, Keys());
  ASSERT_TRUE(lines.ok()) << lines.status();
  std::map<std::string, int> days;
  std::set<int64_t> sizes;
  for (const VerifiedLine& line : *lines) {
    ++days[line.root["day"].get<std::string>()];
    sizes.insert(line.root["size"].get<int64_t>());
  }
  EXPECT_EQ(absl::StrJoin(days, " ", absl::PairFormatter(":")), "2026-11-10:20 2026-11-11:20 2026-11-12:20");
  EXPECT_THAT(sizes, testing::ElementsAre(32)) << "padded";
}

TEST_F(DeriveTest, AFullRootIsClosedBeforeItsDayIsOver) {
  AddKey();
  leaves_max_ = 24;  // 17 receipts, and room for one event with all its hops
  std::vector<Id16> requests;
  for (uint64_t i = 0; i < 60; ++i) requests.push_back(Use(i));
  EXPECT_EQ(CloseRoots(), 3) << "of 17 receipts each; what is left waits for its day to end";
  books_.Advance(kDayUs + kHourUs);
  EXPECT_EQ(CloseRoots(), 1);
  std::string file;
  for (const Id16& request : requests) absl::StrAppend(&file, Get(request, books_.tenant(), true), "\n");
  EXPECT_EQ(Problem(file), "");
  EXPECT_EQ(books_.Int("SELECT sum(receipts) FROM receipt_root"), 60);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM receipt_root a JOIN receipt_root b ON b.number = a.number + 1 "
                       "WHERE b.first_event_seq <> a.last_event_seq + 1"),
            0);
}

TEST_F(DeriveTest, AChangedRowNoLongerLeadsToItsRoot) {
  AddKey();
  const Id16 request = Use(5);
  Use(6);
  books_.Advance(2 * kDayUs);
  ASSERT_EQ(CloseRoots(), 1);
  books_.Tamper("UPDATE usage_event SET output_tokens = 4 WHERE seq = 2");
  EXPECT_THAT(Get(request, books_.tenant(), true), HasSubstr("no longer lead to root 1"));
}

TEST_F(DeriveTest, KeysRootsAndChainsAreNeverChanged) {
  AddKey();
  Use(5);
  books_.Advance(2 * kDayUs);
  ASSERT_EQ(CloseRoots(), 1);
  for (const char* sql :
       {"UPDATE receipt_key SET created_us = 1", "DELETE FROM receipt_key", "UPDATE receipt_root SET receipts = 2",
        "DELETE FROM receipt_root", "UPDATE receipt_chain SET number = 2", "DELETE FROM receipt_chain",
        "UPDATE usage_digest SET output_digest = x''", "DELETE FROM usage_digest"}) {
    const absl::Status status = books_.store().WriteAndWait([&](Database& db) {
      db.Execute(sql);
      return absl::OkStatus();
    });
    EXPECT_FALSE(status.ok()) << sql;
  }
}

// ---- resale: events with one to three hops, made up ----

struct MadeUp {
  std::vector<ReceiptFacts> facts;  // by event, the tenant's hop first

  ReceiptSource Source() const {
    ReceiptSource source;
    source.after = [this](Database&, int64_t seq, int64_t events) {
      return Page(seq, events, [](const ReceiptFacts&) { return true; });
    };
    source.of_buyer = [this](Database&, const Id16& buyer, int64_t seq, int64_t events) {
      return Page(seq, events, [&](const ReceiptFacts& f) { return f.buyer == buyer; });
    };
    source.of_request = [this](Database&, const Id16& request) {
      return Page(0, INT64_MAX, [&](const ReceiptFacts& f) { return f.request_id == request; });
    };
    source.last_event_seq = [this](Database&) { return facts.empty() ? 0 : facts.back().event_seq; };
    source.house = [](Database&) { return Id16{}; };
    return source;
  }
  std::vector<ReceiptFacts> Page(int64_t seq, int64_t events,
                                 const std::function<bool(const ReceiptFacts&)>& wanted) const {
    std::vector<ReceiptFacts> page;
    int64_t last = seq, seen = 0;
    for (const ReceiptFacts& f : facts) {
      if (f.event_seq <= seq || !wanted(f)) continue;
      if (f.event_seq != last && seen++ == events) break;
      last = f.event_seq;
      page.push_back(f);
    }
    return page;
  }
};

class ResaleReceiptTest : public DeriveTest {
 protected:
  // `events` over three days, of tenants below two resellers.
  void Make(int events) {
    ReceiptMaker maker(11);
    std::mt19937_64 random(12);
    const Id16 house = maker.RandomId(), peer = maker.RandomId(), reseller = maker.RandomId();
    std::vector<Id16> tenants;
    for (int i = 0; i < 7; ++i) tenants.push_back(maker.RandomId());
    for (int i = 0; i < events; ++i) {
      ReceiptFacts facts = maker.RandomFacts();
      facts.event_seq = 3 * i + 1;  // sequences may have gaps
      facts.received_us = books_.now_us() + i * (3 * kDayUs / events);
      facts.tenant = tenants[random() % tenants.size()];
      std::vector<Id16> chain = {facts.tenant};
      if (random() % 2 == 0) chain.push_back(reseller);
      if (random() % 2 == 0) chain.push_back(peer);
      chain.push_back(house);
      for (size_t hop = 0; hop + 1 < chain.size(); ++hop) {
        facts.buyer = chain[hop];
        facts.seller = chain[hop + 1];
        facts.cost_pico = 1'000'000'000 + static_cast<int64_t>(random() % 1'000'000'000);
        facts.plan_version_id = maker.RandomId();
        facts.plan_version_hash = maker.RandomBytes(32);
        made_.facts.push_back(facts);
      }
    }
    source_ = made_.Source();
  }
  MadeUp made_;
};

TEST_F(ResaleReceiptTest, EachHopSeesItsOwnPriceOnly) {
  AddKey();
  Make(60);
  for (const ReceiptFacts& facts : made_.facts) {
    const std::string document = Get(facts.request_id, facts.buyer);
    ASSERT_EQ(Problem(document), "");
    for (const ReceiptFacts& other : made_.facts) {
      const bool own = &other == &facts;
      EXPECT_EQ(absl::StrContains(document, absl::StrCat("\"", other.cost_pico, "\"")), own);
      EXPECT_EQ(absl::StrContains(document, other.plan_version_id.ToHex()), own);
    }
    const nlohmann::json receipt = ParseCanonicalObject(document)->at("receipt");
    EXPECT_EQ(receipt["buyer"], facts.buyer.ToHex());
    EXPECT_EQ(receipt["seller"], facts.seller.ToHex());
  }
}

TEST_F(ResaleReceiptTest, EveryHopOfEveryDayIsUnderARoot) {
  AddKey();
  Make(300);
  leaves_max_ = 64;
  books_.Advance(5 * kDayUs);
  ASSERT_GT(CloseRoots(), 3);
  std::string file;
  ReceiptDeriver deriver = Deriver();
  for (const ReceiptFacts& facts : made_.facts) {
    absl::StrAppend(&file, Get(&deriver, facts.request_id, facts.buyer, true), "\n");
  }
  const absl::StatusOr<std::vector<VerifiedLine>> lines = VerifyReceipts(file, Keys());
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_EQ(lines->size(), made_.facts.size());
  EXPECT_EQ(books_.Int("SELECT sum(receipts) FROM receipt_root"), static_cast<int64_t>(made_.facts.size()));
}

// What a proof shows of others: hashes that nobody can guess the inside of, in an order that says nothing.
TEST_F(ResaleReceiptTest, LeavesAreBlindedAndInNoOrderOfTime) {
  AddKey();
  Make(40);
  books_.Advance(5 * kDayUs);
  ASSERT_GT(CloseRoots(), 0);
  std::vector<int64_t> places;
  ReceiptDeriver deriver = Deriver();
  for (const ReceiptFacts& facts : made_.facts) {
    const std::string document = Get(&deriver, facts.request_id, facts.buyer, true);
    const nlohmann::json parsed = *ParseCanonicalObject(document);
    places.push_back(parsed["proof"]["index"].get<int64_t>());
    // Without its nonce a leaf cannot be made from the receipt.
    EXPECT_FALSE(absl::StrContains(
        document, absl::BytesToHexString(MerkleLeaf(std::string(32, '\0'), Sha256(Canonical(parsed["receipt"]))))));
  }
  EXPECT_FALSE(std::is_sorted(places.begin(), places.end()));
}

// ---- the desk ----

TEST_F(DeriveTest, TheDeskAnswersInTurnAndClosesRootsByItself) {
  AddKey();
  const Id16 request = Use(9);
  books_.Advance(2 * kDayUs);
  ReceiptDesk desk({.deriver = {.store = &books_.store(),
                                .ring = ring_.get(),
                                .clock = [this] { return books_.now_us(); },
                                .source = source_},
                    .look_every = absl::Milliseconds(20)});
  const auto ask = [&](absl::Time deadline) {
    absl::Notification over;
    absl::StatusOr<std::vector<std::string>> answer;
    desk.Ask(request, books_.tenant(), true, deadline, [&](absl::StatusOr<std::vector<std::string>> documents) {
      answer = std::move(documents);
      over.Notify();
    });
    over.WaitForNotification();
    return answer;
  };
  absl::StatusOr<std::vector<std::string>> answer = ask(absl::InfiniteFuture());
  for (int i = 0; i < 500 && !answer.ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    answer = ask(absl::InfiniteFuture());
  }
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(Problem(absl::StrJoin(*answer, "\n")), "");
  EXPECT_TRUE(absl::IsDeadlineExceeded(ask(absl::InfinitePast()).status()));
}

TEST_F(DeriveTest, TheDeskRefusesWhenTooManyWaitAndAnswersAllWhenItEnds) {
  AddKey();
  const Id16 request = Use(9);
  absl::Notification inside, go_on;
  ReceiptSource slow = source_;
  slow.of_request = [&](Database& db, const Id16& id) {
    if (!inside.HasBeenNotified()) inside.Notify();
    go_on.WaitForNotification();
    return source_.of_request(db, id);
  };
  std::vector<absl::Status> answers;
  absl::Mutex mutex;
  {
    ReceiptDesk desk({.deriver = {.store = &books_.store(),
                                  .ring = ring_.get(),
                                  .clock = [this] { return books_.now_us(); },
                                  .source = slow},
                      .queue_limit = 2});
    const auto ask = [&] {
      desk.Ask(request, books_.tenant(), false, absl::InfiniteFuture(),
               [&](const absl::StatusOr<std::vector<std::string>>& documents) {
                 absl::MutexLock lock(&mutex);
                 answers.push_back(documents.status());
               });
    };
    ask();
    inside.WaitForNotification();
    ask();
    ask();
    EXPECT_TRUE(answers.empty());
    ask();
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_TRUE(absl::IsResourceExhausted(answers[0])) << answers[0];
    go_on.Notify();
  }
  EXPECT_EQ(answers.size(), 4u) << "one refused, one made, the others made or told that billing stops";
}

}  // namespace
}  // namespace gantry::billing
