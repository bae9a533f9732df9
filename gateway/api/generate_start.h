// The checked request as the cluster runs it: ids, sampling, stop ids, limits.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "gantry/v1/inference.pb.h"
#include "gateway/api/choice_decoder.h"
#include "gateway/api/openai_request.h"
#include "gateway/api/prompt.h"
#include "gateway/clients/model_catalog.h"
#include "services/common/ids.h"

namespace gantry::gateway {

// Where the request is silent, the model's card says how to sample; where that is silent too, OpenAI's defaults do.
v1::Sampling MakeSampling(const CompletionRequest& request, const v1::ModelCard& card);

struct StartIds {
  Id16 request;
  Id16 hold;
  Id16 tenant;
};
// All but the credit of the sequences, which Generation sets. `seed`: of all choices; the sampler tells them apart.
v1::GenerateStart MakeGenerateStart(const CompletionRequest& request, const Model& model, const Prompt& prompt,
                                    const StartIds& ids, uint64_t seed, absl::Duration deadline);

// How the tokens become text. `request` outlives the decoders.
ChoiceDecoder::Options DecoderOptions(const CompletionRequest& request, const Model& model, const Prompts& prompts);

}  // namespace gantry::gateway
