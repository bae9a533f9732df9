#include "engine/base/status_macros.h"
