// See hidden_statement.hpp. The statement is known by its start, which the server sets once for all that a client sends together.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "utils/backend_status.h"
#include "utils/elog.h"
#include "utils/timestamp.h"
}

#include <string>

#include "pg/rbac/hidden_statement.hpp"

namespace pgtrain::pg::rbac {
namespace {

TimestampTz hidden_since = 0;
emit_log_hook_type previous_log_hook = nullptr;

void leave_out_statement(ErrorData *error) {
  if (hidden_since != 0 && hidden_since == GetCurrentStatementStartTimestamp()) {
    error->hide_stmt = true;
    error->hide_ctx = true;
  }
  if (previous_log_hook != nullptr) previous_log_hook(error);
}

}  // namespace

void init_hidden_statement() {
  previous_log_hook = emit_log_hook;
  emit_log_hook = leave_out_statement;
}

void hide_statement() {
  hidden_since = GetCurrentStatementStartTimestamp();
  // The report writes over what is there only as far as it reaches, and the rest would stay in shared memory.
  pgstat_report_activity(STATE_RUNNING, std::string(static_cast<size_t>(pgstat_track_activity_query_size), ' ').c_str());
  pgstat_report_activity(STATE_RUNNING, "<statement with a password or token>");
}

}  // namespace pgtrain::pg::rbac
