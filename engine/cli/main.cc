// gantry-engine: the engine alone, no network. Names and flags are a contract: others script against them.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "engine/cli/commands.h"

int main(int argc, char** argv) {
  using namespace gantry::engine::cli;
  CLI::App app{
      "gantry-engine runs a model without any network: logits, text, speed and what a checkpoint holds.\n\n"
      "  gantry-engine generate --model models/demo --prompt 'Hello' --max-tokens 32\n"
      "  gantry-engine generate --model models/demo --chat conversation.json --max-tokens 64 --json\n"
      "  gantry-engine logits --model models/demo --ids ids.json --out logits.f32 --backend reference\n"
      "  gantry-engine bench --model models/demo --batch 1,4 --spec off,auto\n"
      "  gantry-engine inspect --model models/demo",
      "gantry-engine"};
  app.require_subcommand(1);

  CommonOptions common;
  const auto add_common = [&](CLI::App* command) {
    command
        ->add_option("--model", common.model,
                     "Model directory (config.json, *.safetensors, tokenizer.json) or .gguf file")
        ->required();
    command->add_option("--backend", common.backend, "reference (plain loops, the oracle) or cpu")
        ->capture_default_str();
    command
        ->add_option("--kv-type", common.kv_type,
                     "Keys and values as f32, f16 or int8; the reference backend keeps f32 always")
        ->capture_default_str();
    command->add_option("--threads", common.threads, "0: what cgroup quota and affinity mask allow")
        ->capture_default_str();
  };

  LogitsOptions logits;
  CLI::App* logits_command =
      app.add_subcommand("logits", "Logits of every position as raw little-endian float32 [tokens, vocab]");
  add_common(logits_command);
  logits_command->add_option("--ids", logits.ids, "File with a JSON array of token ids")->required();
  logits_command->add_option("--out", logits.out, "File to write")->required();
  logits_command->add_option("--route-out", logits.route_out,
                             "Also write which experts every layer chose at every position (JSON)");
  logits_command->add_option("--route-from", logits.route_from,
                             "Force the choices of a file written with --route-out, to compare backends strictly");

  GenerateOptions generate;
  CLI::App* generate_command =
      app.add_subcommand("generate", "Continue a prompt; streams text, or one JSON object with --json");
  add_common(generate_command);
  auto* source = generate_command->add_option_group("prompt", "Where the prompt comes from (exactly one)");
  source->add_option("--ids", generate.ids, "File with a JSON array of token ids");
  source->add_option("--prompt", generate.prompt, "Text; control tokens in it are recognised");
  source->add_option("--chat", generate.chat,
                     "File with a JSON array of messages, or an object with messages and tools");
  source->require_option(1);
  generate_command->add_option("--max-tokens", generate.max_tokens, "Most tokens to generate")->required();
  generate_command->add_option("--temperature", generate.sampling.temperature, "0 is greedy")->capture_default_str();
  generate_command->add_option("--top-p", generate.sampling.top_p, "Smallest set of tokens with this probability")
      ->capture_default_str();
  generate_command->add_option("--top-k", generate.sampling.top_k, "The k likeliest tokens; 0 is off")
      ->capture_default_str();
  generate_command->add_option("--min-p", generate.sampling.min_p, "Tokens at least this likely as the likeliest")
      ->capture_default_str();
  generate_command->add_option("--seed", generate.sampling.seed, "Same seed, same output")->capture_default_str();
  generate_command->add_option("--spec", generate.spec, "Speculation: off, auto or mtp:K; never changes the output")
      ->capture_default_str();
  generate_command->add_flag("--ignore-stop", generate.ignore_stop, "Go on after a stop token");
  generate_command->add_flag("--json", generate.json, R"(Print {"tokens":[...],"text":...,"stats":{...}})");

  BenchOptions bench;
  CLI::App* bench_command = app.add_subcommand(
      "bench",
      "Prompt and decode speed, against what the machine allows. A row is one way of speculating, one batch and one "
      "context; rows take turns in every run. Rows without speculation are held against the bytes of the experts that "
      "they really read and against int8 products: the smaller limit binds, but a model that lies in the caches is "
      "bound by neither, and float weights multiply slower than int8. Rows with speculation are held against an ideal "
      "made of measured times: plain rounds, rounds that verify drafts made for nothing, and draft steps are run too");
  add_common(bench_command);
  bench_command->add_option("--batch", bench.batches, "Sequences at once")->delimiter(',')->capture_default_str();
  bench_command
      ->add_option("--context,--prompt-tokens", bench.contexts,
                   "Tokens of each prompt, and so in the cache when decoding begins")
      ->delimiter(',')
      ->capture_default_str();
  bench_command->add_option("--decode-tokens", bench.decode_tokens, "Tokens to generate in each sequence")
      ->capture_default_str();
  bench_command
      ->add_option(
          "--spec", bench.specs,
          "Speculation: off, auto, mtp:K, ngram, replay:FILE,accept=P1/P2/... (drafts from the outputs of "
          "--record with the same text and contexts, right in those shares, at the real cost of the MTP layer)")
      ->delimiter(',')
      ->capture_default_str();
  bench_command->add_option("--text", bench.text,
                            "File with the text that is prompt and, forced token by token, what follows it; without "
                            "it a built-in passage of 3,700 characters, which begins again where a row needs more");
  bench_command->add_flag("--free", bench.free,
                          "Let the model write what follows the prompt. Forced is the default because rows, models "
                          "and machines then decode the same tokens: a small or random model left alone soon repeats "
                          "itself, which flatters every drafter. Acceptance belongs to a text: give one of the kind "
                          "that the model will serve");
  bench_command->add_option("--record", bench.record, "Write prompts and outputs to this file, for --spec replay:");
  bench_command->add_option("--runs", bench.runs, "Runs of each row; the median is printed")->capture_default_str();
  bench_command->add_flag("--json", bench.json, "Print JSON");

  InspectOptions inspect;
  CLI::App* inspect_command =
      app.add_subcommand("inspect", "What a checkpoint holds: family, shapes, parameters, bytes");
  add_common(inspect_command);
  inspect_command->add_flag("--json", inspect.json, "Print JSON");

  CLI11_PARSE(app, argc, argv);

  absl::Status status;
  if (logits_command->parsed()) status = RunLogits(common, logits);
  if (generate_command->parsed()) status = RunGenerate(common, generate);
  // The comma inside `replay:FILE,accept=...` is none between modes.
  for (size_t i = 1; i < bench.specs.size();) {
    if (bench.specs[i].rfind("accept=", 0) != 0) {
      ++i;
      continue;
    }
    bench.specs[i - 1] += "," + bench.specs[i];
    bench.specs.erase(bench.specs.begin() + static_cast<int64_t>(i));
  }
  if (bench_command->parsed()) status = RunBench(common, bench);
  if (inspect_command->parsed()) status = RunInspect(common, inspect);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gantry-engine: %s\n", std::string(status.message()).c_str());
  return 1;
}
