#include "tools/make_model/write_model.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"
#include "engine/format/gguf_header.h"
#include "engine/format/quant_blocks.h"

namespace gantry::make_model {
namespace {

using engine::DType;

// Bytes that are made before they are written: enough rows to keep all threads busy.
constexpr int64_t kChunkBytes = 4 << 20;

class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
    return OutputFile(path, file);
  }
  OutputFile(OutputFile&& other) noexcept : path_(std::move(other.path_)), file_(other.file_) { other.file_ = nullptr; }
  ~OutputFile() {
    if (file_ != nullptr) std::fclose(file_);
  }

  absl::Status Write(absl::string_view bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size()) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": writing failed"));
  }
  absl::Status Close() {
    std::FILE* file = file_;
    file_ = nullptr;
    if (std::fclose(file) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": writing failed"));
  }

 private:
  OutputFile(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  std::string path_;
  std::FILE* file_;
};

absl::Status WriteRows(const SourceTensor& tensor, DType type, engine::ThreadPool& pool, OutputFile* file) {
  const int64_t columns = tensor.columns(), row_bytes = engine::RowBytes(type, columns);
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkBytes / row_bytes);
  std::string chunk;
  for (int64_t first = 0; first < tensor.rows(); first += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, tensor.rows() - first);
    chunk.resize(rows * row_bytes);
    pool.ParallelFor(rows, [&](int64_t i, int) {
      thread_local std::vector<float> values;
      values.resize(columns);
      tensor.read(first + i, values.data());
      engine::EncodeRow(type, values.data(), columns, chunk.data() + i * row_bytes);
    });
    GANTRY_RETURN_IF_ERROR(file->Write(chunk));
  }
  return absl::OkStatus();
}

void SetKey(const std::string& key, const GgufValue& value, engine::GgufHeader* header) {
  struct Setter {
    const std::string& key;
    engine::GgufHeader* header;
    void operator()(const std::string& v) const { header->SetString(key, v); }
    void operator()(uint32_t v) const { header->SetU32(key, v); }
    void operator()(float v) const { header->SetF32(key, v); }
    void operator()(bool v) const { header->SetBool(key, v); }
    void operator()(const std::vector<std::string>& v) const { header->SetStrings(key, v); }
    void operator()(const std::vector<int32_t>& v) const { header->SetI32s(key, v); }
  };
  std::visit(Setter{key, header}, value);
}

}  // namespace

absl::Status WriteGguf(const GgufPlan& plan, const std::string& path, int threads) {
  engine::GgufHeader header;
  for (const auto& [key, value] : plan.keys) SetKey(key, value, &header);
  for (const GgufTensor& tensor : plan.tensors) header.AddTensor(tensor.name, tensor.source.shape, tensor.type);
  GANTRY_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  GANTRY_RETURN_IF_ERROR(file.Write(header.Bytes()));
  engine::ThreadPool pool(threads);
  for (const GgufTensor& tensor : plan.tensors) {
    GANTRY_RETURN_IF_ERROR(WriteRows(tensor.source, tensor.type, pool, &file));
    const int64_t bytes = tensor.source.rows() * engine::RowBytes(tensor.type, tensor.source.columns());
    GANTRY_RETURN_IF_ERROR(file.Write(std::string(engine::GgufHeader::PaddedBytes(bytes) - bytes, '\0')));
  }
  return file.Close();
}

absl::Status WriteSafetensors(const Checkpoint& checkpoint, const std::string& type, const std::string& directory,
                              const std::string& tokenizer_directory, int threads) {
  const std::optional<DType> dtype = engine::DTypeNamed(absl::AsciiStrToUpper(type));
  if (!dtype || engine::InfoOf(*dtype).block_elements != 1) {
    return absl::InvalidArgumentError(absl::StrCat("type `", type, "`: expected f32, f16 or bf16 for safetensors"));
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::UnavailableError(absl::StrCat(directory, ": cannot be made: ", error.message()));
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}) {
    const std::string from = absl::StrCat(tokenizer_directory, "/", name);
    if (tokenizer_directory.empty() || !std::filesystem::exists(from, error)) continue;
    std::filesystem::copy_file(from, absl::StrCat(directory, "/", name),
                               std::filesystem::copy_options::overwrite_existing, error);
    if (error) return absl::UnavailableError(absl::StrCat(from, ": cannot be copied: ", error.message()));
  }
  GANTRY_ASSIGN_OR_RETURN(OutputFile config, OutputFile::Create(directory + "/config.json"));
  GANTRY_RETURN_IF_ERROR(config.Write(checkpoint.config.dump(2) + "\n"));
  GANTRY_RETURN_IF_ERROR(config.Close());

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  int64_t end = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const int64_t begin = end;
    end += tensor.rows() * engine::RowBytes(*dtype, tensor.columns());
    header[name] = {{"dtype", engine::DTypeName(*dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  GANTRY_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(directory + "/model.safetensors"));
  GANTRY_RETURN_IF_ERROR(file.Write({reinterpret_cast<const char*>(&length), sizeof(length)}));
  GANTRY_RETURN_IF_ERROR(file.Write(text));
  engine::ThreadPool pool(threads);
  for (const auto& [name, tensor] : checkpoint.tensors) {
    GANTRY_RETURN_IF_ERROR(WriteRows(tensor, *dtype, pool, &file));
  }
  return file.Close();
}

}  // namespace gantry::make_model
