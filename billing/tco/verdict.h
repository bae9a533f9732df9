// What the figures mean, in plain words that may say no.
#pragma once

#include <string>

#include "billing/tco/model.h"

namespace gantry::tco {

// Fills in verdict, trial and warnings. REQUIRES: all figures of the report are there.
void PutIntoWords(Report* report);

// Figures as all renderings show them.
std::string MoneyText(const Report& report, int64_t micro);  // "USD 1,082.76"
std::string TokensText(int64_t tokens);                      // "226 M", "4.5 M"
std::string PercentText(int64_t ppm);                        // "9.4 %"
std::string AnswerText(Answer answer);                       // "do not buy"

}  // namespace gantry::tco
