// Statements that carry a password or token as a literal. From the moment a function of ours sees it, the text is shown to nobody
// else in pg_stat_activity (all sessions of one database role read each other's there, and users of an application share one) and
// is left out of the server's log when the statement fails.
#pragma once

namespace pgtrain::pg::rbac {

// Installs the log hook. Called from init().
void init_hidden_statement();

// Hides the text of the statement that is being executed.
void hide_statement();

}  // namespace pgtrain::pg::rbac
