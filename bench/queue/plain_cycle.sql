-- pgbench: one claim of the peer and the end of that row.
update runs set state = 'running', worker = 'w', started_at = now()
 where id = (select id from runs where state = 'queued' order by priority desc, id for update skip locked limit 1)
returning id \gset
update runs set state = 'done', finished_at = now() where id = :id;
