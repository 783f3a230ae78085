-- pgbench: one claim of our queue, as a device worker makes it.
select run_id, attempt from pgtrain_private.claim_run(null, pg_backend_pid());
