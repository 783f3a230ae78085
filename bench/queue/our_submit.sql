-- pgbench: one submit_run with everything it checks; each client logs in once, for its whole session.
\if :ready = 0
select token, dataset_id as dataset from bench.tokens where n = 1 + :client_id::integer % :users::integer \gset
select pgtrain.authenticate(:token::text, session => true);
\set ready 1
\endif
select pgtrain.submit_run(dataset_id => :dataset::bigint, config => '{"size": "nano", "steps": 100}');
