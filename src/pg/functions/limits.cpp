// What the SQL of limits and billing reads of the settings. As functions, because a setting read by name could be a session's own
// invention as long as the module is not loaded.
#include "pg/compat.hpp"

extern "C" {
#include "utils/builtins.h"
}

#include "pg/boundary/function.hpp"
#include "pg/guc.hpp"

using pgtrain::pg::settings;

PGTRAIN_FUNCTION(pgtrain_limits_time_zone) { PG_RETURN_TEXT_P(cstring_to_text(settings.limits_time_zone)); }

PGTRAIN_FUNCTION(pgtrain_payment_grace) { PG_RETURN_INT32(settings.payment_grace_days); }
