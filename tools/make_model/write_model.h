// Model files on disk, written row by row.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"

namespace gantry::make_model {

// Errors of the file system name the path. `threads` as in engine::ThreadPool.
absl::Status WriteGguf(const GgufPlan& plan, const std::string& path, int threads);

// A directory with config.json and model.safetensors, all tensors of one type (f32, f16 or bf16), and the tokenizer
// files of `tokenizer_directory` (empty: none). Made when it is not there.
absl::Status WriteSafetensors(const Checkpoint& checkpoint, const std::string& type, const std::string& directory,
                              const std::string& tokenizer_directory, int threads);

}  // namespace gantry::make_model
