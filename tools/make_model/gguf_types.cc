#include "tools/make_model/gguf_types.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/format/quant_blocks.h"

namespace gantry::make_model {
namespace {

using engine::DType;

struct FileType {
  const char* name;
  DType type;
  uint32_t id;  // general.file_type
};
constexpr FileType kFileTypes[] = {
    {"f32", DType::kF32, 0},    {"f16", DType::kF16, 1},    {"q4_0", DType::kQ4_0, 2},  {"q4_1", DType::kQ4_1, 3},
    {"q8_0", DType::kQ8_0, 7},  {"q5_0", DType::kQ5_0, 8},  {"q4_k", DType::kQ4_K, 14}, {"q4_k_m", DType::kQ4_K, 15},
    {"q5_k", DType::kQ5_K, 16}, {"q6_k", DType::kQ6_K, 18}, {"bf16", DType::kBF16, 32},
};

bool StaysF32(const GgufTensor& tensor) {
  return tensor.source.shape.size() == 1 || absl::StrContains(tensor.name, "_norm") ||
         absl::StrContains(tensor.name, "ffn_gate_inp") || absl::StrContains(tensor.name, "ssm_conv1d");
}

// llama.cpp's choice of the layers that deserve more bits: the first and last eighth, and each third between.
bool DeservesMoreBits(int64_t i, int64_t count) {
  return i < count / 8 || i >= 7 * count / 8 || (i - count / 8) % 3 == 2;
}

// "blk.3.attn_v.weight" -> 3; -1 for tensors of no block.
int64_t BlockOf(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  int64_t block = -1;
  if (parts.size() < 3 || parts[0] != "blk" || !absl::SimpleAtoi(parts[1], &block)) return -1;
  return block;
}

// The type with smaller blocks that stands in where rows are no multiple of 256, or of 32.
DType Fitting(DType type, int64_t columns) {
  const auto fits = [columns](DType t) { return columns % engine::InfoOf(t).block_elements == 0; };
  if (fits(type)) return type;
  const DType smaller = type == DType::kQ4_K ? DType::kQ5_0 : DType::kQ8_0;
  return fits(smaller) ? smaller : DType::kF16;
}

}  // namespace

absl::Status ChooseTypes(const std::string& type, GgufPlan* plan) {
  const auto* file_type =
      std::find_if(std::begin(kFileTypes), std::end(kFileTypes), [&](const FileType& t) { return type == t.name; });
  if (file_type == std::end(kFileTypes)) {
    std::string names;
    for (const FileType& t : kFileTypes) absl::StrAppend(&names, names.empty() ? "" : ", ", t.name);
    return absl::InvalidArgumentError(absl::StrCat("type `", type, "`: expected one of ", names));
  }
  const bool mix = type == "q4_k_m";
  int64_t blocks = 0, value_count = 0, values_seen = 0;
  bool has_head = false;
  for (const GgufTensor& tensor : plan->tensors) {
    blocks = std::max(blocks, BlockOf(tensor.name) + 1);
    value_count += absl::EndsWith(tensor.name, "attn_v.weight") ? 1 : 0;
    has_head = has_head || tensor.name == "output.weight";
  }
  for (GgufTensor& tensor : plan->tensors) {
    tensor.type = DType::kF32;
    if (StaysF32(tensor)) continue;
    tensor.type = file_type->type;
    if (mix) {
      if (tensor.name == (has_head ? "output.weight" : "token_embd.weight")) {
        tensor.type = DType::kQ6_K;
      } else if (absl::EndsWith(tensor.name, "attn_v.weight")) {
        if (DeservesMoreBits(values_seen++, value_count)) tensor.type = DType::kQ6_K;
      } else if (absl::StrContains(tensor.name, "ffn_down")) {
        if (DeservesMoreBits(BlockOf(tensor.name), blocks)) tensor.type = DType::kQ6_K;
      } else if (absl::EndsWith(tensor.name, "attn_qkv.weight")) {
        tensor.type = DType::kQ5_K;
      }
    }
    tensor.type = Fitting(tensor.type, tensor.source.columns());
  }
  plan->keys.emplace_back("general.file_type", file_type->id);
  plan->keys.emplace_back("general.quantization_version", uint32_t{2});
  return absl::OkStatus();
}

}  // namespace gantry::make_model
