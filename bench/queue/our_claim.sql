select run_id, attempt from pgtrain_private.claim_run(null, pg_backend_pid());
