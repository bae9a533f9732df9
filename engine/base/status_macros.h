// Early return of absl::Status, with context added where the caller knows more than the callee.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gantry {

// The same code, the message prefixed: "loading models/demo: config.json: missing key `hidden_size`".
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace gantry

#define GANTRY_RETURN_IF_ERROR(expr)                                                       \
  do {                                                                                     \
    if (absl::Status gantry_status_ = (expr); !gantry_status_.ok()) return gantry_status_; \
  } while (false)

#define GANTRY_CONCAT_INNER(a, b) a##b
#define GANTRY_CONCAT(a, b) GANTRY_CONCAT_INNER(a, b)

// GANTRY_ASSIGN_OR_RETURN(auto file, OpenFile(path));
#define GANTRY_ASSIGN_OR_RETURN(lhs, expr) \
  GANTRY_ASSIGN_OR_RETURN_IMPL(GANTRY_CONCAT(gantry_statusor_, __LINE__), lhs, expr)
// Names and a declaration cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define GANTRY_ASSIGN_OR_RETURN_IMPL(var, lhs, expr) \
  auto var = (expr);                                 \
  if (!var.ok()) return std::move(var).status();     \
  lhs = std::move(var).value()
// NOLINTEND(bugprone-macro-parentheses)
