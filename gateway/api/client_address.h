// Who is calling: the socket's other end, or what a trusted proxy says of it (R17).
#pragma once

#include <string>
#include <vector>

#include "gateway/admission/key_table.h"
#include "gateway/http/message.h"

namespace gantry::gateway {

// The rightmost hop of X-Forwarded-For that is no trusted proxy, and only if the socket's end is one.
std::string ClientAddress(const HttpRequest& request, const std::vector<Cidr>& trusted_proxies);

}  // namespace gantry::gateway
