\if :ready = 0
select token, dataset_id as dataset from bench.tokens where n = 1 + :client_id % :users \gset
\set ready 1
\endif
begin;
select pgtrain.authenticate(:token);
select pgtrain.submit_run(dataset_id => :dataset, config => '{"size": "nano", "steps": 100}');
commit;
