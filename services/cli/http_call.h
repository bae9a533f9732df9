// One HTTP/1.1 request to the gateway over plain TCP, its answer handed over as it comes. Blocks.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace gantry::cli {

struct HttpCallOptions {
  std::string endpoint;                        // "http://127.0.0.1:8080"
  std::string path;                            // "/v1/models"
  std::string key;                             // bearer token; empty: none
  std::string body;                            // JSON; empty: GET, else POST
  absl::Duration timeout = absl::Seconds(10);  // of each wait, not of the whole
};

// The status code, after `on_body` got every piece of the body. UNAVAILABLE: cannot connect, or silent for too long.
// DATA_LOSS: the body ended before its end, which is how a gateway that died looks.
absl::StatusOr<int> HttpCall(const HttpCallOptions& options,
                             const std::function<void(int status, absl::string_view piece)>& on_body);

}  // namespace gantry::cli
