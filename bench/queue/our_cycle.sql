-- pgbench: one claim of our queue and the end of that run.
select run_id, attempt from pgtrain_private.claim_run(null, pg_backend_pid()) \gset
select pgtrain_private.finish_run(:run_id, :attempt, 'succeeded');
