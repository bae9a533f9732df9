#include "services/cli/chat_stream.h"

#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

std::string Event(const std::string& text) {
  return "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" + text + "\"}}]}\n\n";
}

TEST(ChatStreamTest, TextIsTheSameHoweverTheBytesAreCut) {
  const std::string body =
      ": comment\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n" + Event("River ") +
      Event("means\\n") + Event("b\\u00e4ch") +
      "data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\ndata: [DONE]\r\n\r\n";
  for (size_t piece = 1; piece <= body.size(); ++piece) {
    std::string text;
    ChatStream stream([&](absl::string_view got) { text.append(got.data(), got.size()); });
    for (size_t at = 0; at < body.size(); at += piece) stream.Feed(absl::string_view(body).substr(at, piece));
    ASSERT_EQ(text, "River means\nbäch") << "pieces of " << piece;
    ASSERT_TRUE(stream.Finish().ok());
  }
}

TEST(ChatStreamTest, ErrorEventIsTheResult) {
  ChatStream stream([](absl::string_view) {});
  stream.Feed(Event("River"));
  stream.Feed("data: {\"error\":{\"message\":\"the worker was lost\",\"type\":\"server_error\"}}\n\n");
  EXPECT_EQ(stream.Finish().message(), "the worker was lost");
}

TEST(ChatStreamTest, MissingEndIsDataLoss) {
  ChatStream stream([](absl::string_view) {});
  stream.Feed(Event("River"));
  EXPECT_EQ(stream.Finish().code(), absl::StatusCode::kDataLoss);
}

TEST(ErrorMessageTest, ObjectsGiveTheirMessageAndOtherBodiesTheirBeginning) {
  EXPECT_EQ(ErrorMessage(R"({"error":{"message":"no such model","code":"model_not_found"}})"), "no such model");
  EXPECT_EQ(ErrorMessage(R"({"error":"plain"})"), "\"plain\"");
  EXPECT_EQ(ErrorMessage("Bad Gateway"), "Bad Gateway");
  EXPECT_EQ(ErrorMessage(std::string(1000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace gantry::cli
