// Where documents of billing go: format, file or terminal.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/document/document.h"
#include "services/cli/command.h"

namespace gantry::cli {

struct DocumentOutput {
  std::string format, file;
};
// --format and --output.
void AddDocumentOutput(CLI::App& command, DocumentOutput* output);

// --format, else what the file's name ends in, else JSON. INVALID_ARGUMENT: a PDF for the terminal.
absl::StatusOr<std::string> FormatOf(const DocumentOutput& output);

// How a document is written in each format.
struct DocumentWriters {
  std::function<std::string()> json, csv;
  std::function<absl::StatusOr<document::Rendering>()> html, pdf;
};
// To the file or to the terminal; what the reader of the paper will miss goes to `err`.
absl::Status WriteDocument(const DocumentOutput& output, const std::string& format, const DocumentWriters& writers,
                           const Invocation& invocation);

}  // namespace gantry::cli
