#include "services/cli/document_output.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/output_file.h"

namespace gantry::cli {

void AddDocumentOutput(CLI::App& command, DocumentOutput* output) {
  command.add_option("--format", output->format, "json, csv, html or pdf; default: as FILE ends, else json")
      ->type_name("F")
      ->check(CLI::IsMember({"json", "csv", "html", "pdf"}));
  command.add_option("--output", output->file, "write here; default: standard output")->type_name("FILE");
}

absl::StatusOr<std::string> FormatOf(const DocumentOutput& output) {
  std::string format = output.format;
  for (const char* known : {"json", "csv", "html", "pdf"}) {
    if (format.empty() && absl::EndsWith(output.file, absl::StrCat(".", known))) format = known;
  }
  if (format == "pdf" && output.file.empty()) {
    return absl::InvalidArgumentError("a PDF is not for the terminal: --output FILE, or --output - for a pipe");
  }
  return format.empty() ? "json" : format;
}

absl::Status WriteDocument(const DocumentOutput& output, const std::string& format, const DocumentWriters& writers,
                           const Invocation& invocation) {
  if (format == "json") return WriteOutput(output.file, writers.json(), *invocation.out);
  if (format == "csv") return WriteOutput(output.file, writers.csv(), *invocation.out);
  GANTRY_ASSIGN_OR_RETURN(const document::Rendering page, format == "pdf" ? writers.pdf() : writers.html());
  for (const std::string& warning : page.warnings) *invocation.err << "warning: " << warning << "\n";
  return WriteOutput(output.file, page.bytes, *invocation.out);
}

}  // namespace gantry::cli
