// The letter of a quote. Pure: what it says is what the message says.
#pragma once

#include "billing/quote/promise_letter.h"
#include "gantry/v1/quote.pb.h"

namespace gantry::billing {

// Dated on the day it was sent, or drafted, in the seller's time zone.
PromiseLetter LetterOf(const v1::Quote& quote);

}  // namespace gantry::billing
