// One completion from the body to the last byte: parse, render and tokenise, admit, generate, detokenise, write, meter.
#pragma once

#include <memory>

#include "boost/asio/awaitable.hpp"
#include "gateway/api/api_context.h"
#include "gateway/http/message.h"

namespace gantry::gateway {

// Sends exactly one reply. `context` outlives it.
boost::asio::awaitable<void> RunCompletion(ApiContext* context, HttpRequest request, HttpExchange& exchange,
                                           std::shared_ptr<const KeyInfo> key, bool chat);

}  // namespace gantry::gateway
