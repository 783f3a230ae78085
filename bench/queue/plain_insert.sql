-- pgbench: a bare INSERT, the peer of submit_run.
insert into runs (user_id, payload) values (1, '{"size": "nano", "steps": 100, "learning_rate": 0.001}');
