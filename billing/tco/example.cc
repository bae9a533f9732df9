#include "billing/tco/input.h"

namespace gantry::tco {

absl::string_view ExampleToml() {
  return R"toml(# What `gantry tco FILE` decides on. Change what is yours; keys that are commented out are optional.
# Amounts are plain decimals in `currency`, or in a `currency` that their table names: then a [[rate]] converts them.

title = "Two RTX PRO 6000 beside the API"
# prepared_by = "House of Machines"
# prepared_for = "Example Ltd"
currency = "USD"                      # CNY, EUR or USD

[hardware]
months = 36                           # how long it will be used
residual_percent = 0                  # of the price, what it still sells for after that

[[hardware.item]]
name = "RTX PRO 6000 Blackwell, 96 GB"
count = 2
price = 8565                          # each; prices of 2026-04, ask again

[[hardware.item]]
name = "Host, memory, PCIe switch"
price = 8870

[running]
maintenance_percent_per_year = 5      # of the price
average_power_watts = 700             # average over the month, not the peak
electricity_per_kwh = 0.20
pue = 1.0                             # cooling and losses: 1.0 none, 1.5 half as much again
hosting_per_month = 150               # rack, network
# admin_hours_per_month = 8
# admin_per_hour = 60

[throughput]
output_tokens_per_s = 1411            # all streams together, at as many as your users put up with
source = "published: SGLang, Qwen3.5-122B NVFP4 on two RTX PRO 6000, 32 streams"
measured = false                      # true: on the very box that is to be bought
derate_percent = 65                   # what is left after prompts, peaks and downtime
# bench = "bench.json"                # instead: gantry-engine bench --json > bench.json on that box
# batch = 32                          # its row of so many streams; default: the fastest
# prefill_from_bench = true           # prompts take the time measured, not a part of the derate
# prefill_tokens_per_s = 9900         # the same, typed in

[usage]
# The usage is said in one of four ways.
# 1. By calls:
# calls_per_day = 100000
# input_tokens_per_call = 1600
# cached_tokens_per_call = 800        # of the input
# output_tokens_per_call = 400
# 2. By month:
# input_tokens_per_month = 80_000_000
# cached_tokens_per_month = 0
# output_tokens_per_month = 20_000_000
# 3. By proportion; how much it is follows from [bill], from the utilisation below, or stays open:
input_per_output = 4
cached_percent = 0                    # of the input
# expected_utilisation_percent = 30

# What APIs cost you today. With `api`, usage 3 is what this buys there.
# [bill]
# amount = 500000
# currency = "CNY"
# per = "year"                        # or "month"
# api = "OpenRouter, Qwen3.5-122B"

# A trial before buying.
# [trial]
# cost = 5000
# throughput_low_percent = 50         # where the figure above may turn out to lie
# throughput_high_percent = 150

# [resale]
# utilisation_percent = [5, 10, 20, 30, 40, 60, 100]

# [[rate]]
# from = "USD"
# to = "CNY"
# rate = 7.10
# source = "People's Bank of China"
# date = 2026-07-01

# Prices of a million tokens. `same_model`: the model that the box would run, so that the answers are worth the same.
[[api]]
name = "Alibaba international, Qwen3.5-122B"
same_model = true
input = 0.40
output = 3.20
# cached_input = 0.04                 # default: as input
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "OpenRouter, Qwen3.5-122B"
same_model = true
input = 0.26
output = 2.08
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "Cheapest reseller, Qwen3.5-122B"
same_model = true
input = 0.115
output = 0.917
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "OpenRouter, MiniMax-M2.7"
same_model = false
input = 0.18
output = 0.72
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "OpenRouter, DeepSeek-V4-flash"
same_model = false
input = 0.098
# cached_input = 0.02
output = 0.196
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "OpenRouter, Qwen3-235B-A22B-2507"
same_model = false
input = 0.09
output = 0.10
source = "models.dev f3fc692"
date = 2026-07-02

[[api]]
name = "OpenRouter, gpt-oss-120b"
same_model = false
input = 0.03
output = 0.15
source = "models.dev f3fc692"
date = 2026-07-02
)toml";
}

}  // namespace gantry::tco
