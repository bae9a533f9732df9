#include "engine/spec/spec_mode.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/backend/backend.h"
#include "engine/base/status_macros.h"

namespace gantry::engine {

absl::StatusOr<SpecMode> SpecMode::Parse(absl::string_view text, bool has_mtp) {
  SpecMode mode;
  mode.name = std::string(text);
  if (text == "off") return mode;
  if (text == "auto") {
    mode.depth = kDraftDepthMax;
    mode.mtp = has_mtp;
    mode.ngram = mode.adaptive = true;
    return mode;
  }
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "replay:")) {
    GANTRY_ASSIGN_OR_RETURN(mode.replay, Replay::Load(rest));
    mode.depth = mode.replay->depth();
    // With an MTP layer its real cost is paid and its drafts are replaced.
    mode.mtp = has_mtp;
    return mode;
  }
  mode.ngram = absl::ConsumePrefix(&rest, "ngram");
  if (mode.ngram && rest.empty()) {
    mode.depth = kDraftDepthMax;
    return mode;
  }
  mode.mtp = absl::ConsumePrefix(&rest, mode.ngram ? "+mtp" : "mtp");
  const bool read = (mode.ngram || mode.mtp) && absl::ConsumePrefix(&rest, ":") &&
                    absl::SimpleAtoi(rest, &mode.depth) && mode.depth >= 1 && mode.depth <= kDraftDepthMax;
  if (!read) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec is `", text, "`, expected off, auto, mtp:K, ngram, ngram:K, ngram+mtp:K or ",
                     "replay:FILE,accept=P1/P2/..., with K in [1, ", kDraftDepthMax, "]"));
  }
  if (mode.mtp && !has_mtp) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec is ", text, ", but the model has no MTP layer; use off, ngram or auto"));
  }
  return mode;
}

}  // namespace gantry::engine
