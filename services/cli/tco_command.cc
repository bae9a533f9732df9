// gantry tco: own hardware or an API, decided with data. Reads files and shows; the thinking is billing/tco's.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"
#include "billing/document/text.h"
#include "billing/tco/report.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/output_file.h"

namespace gantry::cli {
namespace {

constexpr size_t kInputBytesMax = 256 * 1024;
constexpr size_t kBenchBytesMax = 8 * 1024 * 1024;

struct TcoOptions {
  std::string file, bench, pdf, html;
  std::vector<std::string> set;
  bool example = false, json = false;
};

// What cannot be read is the user's to mend, as a wrong flag is.
absl::StatusOr<std::string> ReadInput(const std::string& path, size_t bytes_max) {
  absl::StatusOr<std::string> text = engine::ReadSmallFile(path, bytes_max);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  return text;
}

absl::StatusOr<tco::Report> ReadReport(const TcoOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(const std::string toml, ReadInput(options.file, kInputBytesMax));
  tco::ParseOptions parse{.file_name = options.file, .overrides = options.set};
  std::string bench = options.bench;
  if (bench.empty()) {
    GANTRY_ASSIGN_OR_RETURN(bench, tco::BenchPath(toml, parse));
    // A path in the file is meant from where the file is.
    if (!bench.empty()) bench = (std::filesystem::path(options.file).parent_path() / bench).string();
  }
  if (!bench.empty()) {
    GANTRY_ASSIGN_OR_RETURN(parse.bench, ReadInput(bench, kBenchBytesMax));
  }
  GANTRY_ASSIGN_OR_RETURN(const tco::Input input, tco::ParseInput(toml, parse));
  return tco::Decide(input, absl::ToCivilDay(absl::Now(), absl::LocalTimeZone()));
}

absl::Status WriteRendering(absl::StatusOr<document::Rendering> rendering, const std::string& path,
                            const Invocation& invocation) {
  GANTRY_RETURN_IF_ERROR(rendering.status());
  for (const std::string& warning : rendering->warnings) *invocation.err << "warning: " << warning << "\n";
  return WriteOutputFile(path, rendering->bytes);
}

absl::StatusOr<int> Tco(const TcoOptions& options, const Invocation& invocation) {
  if (options.example) {
    *invocation.out << tco::ExampleToml();
    return 0;
  }
  if (options.file.empty()) {
    return absl::InvalidArgumentError("which FILE? `gantry tco --example > tco.toml` makes one to start from");
  }
  GANTRY_ASSIGN_OR_RETURN(const tco::Report report, ReadReport(options));
  const document::Document page = tco::ReportDocument(report);
  if (!options.pdf.empty()) {
    GANTRY_RETURN_IF_ERROR(WriteRendering(document::RenderPdf(page), options.pdf, invocation));
  }
  if (!options.html.empty()) {
    GANTRY_RETURN_IF_ERROR(WriteRendering(document::RenderHtml(page), options.html, invocation));
  }
  if (options.json) {
    *invocation.out << tco::ReportJson(report);
  } else {
    GANTRY_ASSIGN_OR_RETURN(const document::Rendering text, document::RenderText(page));
    *invocation.out << text.bytes;
  }
  return 0;
}

}  // namespace

void AddTcoCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<TcoOptions>();
  CLI::App* tco = AddCommand(app, invocation, "tco", "own hardware or an API: cost, break-even and a plain verdict",
                             "gantry tco --example > tco.toml\n"
                             "gantry tco tco.toml\n"
                             "gantry tco tco.toml --set hardware.months=24 --set usage.calls_per_day=5000\n"
                             "gantry tco tco.toml --bench bench.json --pdf decision.pdf",
                             [=, &invocation] { return Tco(*options, invocation); });
  tco->add_option("FILE", options->file, "facts and assumptions, TOML");
  tco->add_flag("--example", options->example, "print a commented file to start from");
  tco->add_option("--set", options->set, "a value that wins over the file's, for example running.pue=1.3; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  tco->add_option("--bench", options->bench, "throughput from `gantry-engine bench --json` on this machine")
      ->type_name("FILE");
  tco->add_option("--pdf", options->pdf, "also write the report as PDF")->type_name("FILE");
  tco->add_option("--html", options->html, "also write the report as HTML")->type_name("FILE");
  tco->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
