-- pgbench: the same submit for a pooler: the client authenticates in each transaction.
\if :ready = 0
select token, dataset_id as dataset from bench.tokens where n = 1 + :client_id::integer % :users::integer \gset
\set ready 1
\endif
begin;
select pgtrain.authenticate(:token::text);
select pgtrain.submit_run(dataset_id => :dataset::bigint, config => '{"size": "nano", "steps": 100}');
commit;
