-- Run limits: runs that wait for a limit, and what runs and datasets take of the limit of storage.

create table pgtrain_private.limited_runs (
    run_id bigint primary key references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);
comment on table pgtrain_private.limited_runs is 'Runs paused as limit_reached; the scheduler queues them again when there is room';
select pg_extension_config_dump('pgtrain_private.limited_runs'::regclass, '');

-- Storage is counted when a transaction commits: its counter would otherwise be locked as long as an upload takes, and the user's
-- runs could store no checkpoint. It is the last counter that a transaction locks. Restored rows come by INSERT and are not counted
-- anew, because their counter is restored too.
create function pgtrain_private.count_dataset_storage() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' and new.owner_id is not distinct from old.owner_id then
        perform pgtrain_private.move_usage(new.owner_id, 'storage_bytes', new.size_bytes - old.size_bytes);
        return null;
    end if;
    if old.owner_id is not null then
        perform pgtrain_private.move_usage(old.owner_id, 'storage_bytes', -old.size_bytes);
    end if;
    -- What is handed over is taken over whatever the new owner's limit.
    if tg_op = 'UPDATE' and new.owner_id is not null then
        perform pgtrain_private.move_usage(new.owner_id, 'storage_bytes', new.size_bytes, null, true);
    end if;
    return null;
end $$;
comment on function pgtrain_private.count_dataset_storage() is 'Deferred row trigger: the text of a dataset counts as its owner''s storage';
create constraint trigger count_changed_storage after update on pgtrain.datasets deferrable initially deferred
    for each row when (old.size_bytes <> new.size_bytes or old.owner_id is distinct from new.owner_id) execute function pgtrain_private.count_dataset_storage();
create constraint trigger count_removed_storage after delete on pgtrain.datasets deferrable initially deferred
    for each row when (old.size_bytes > 0) execute function pgtrain_private.count_dataset_storage();

-- A checkpoint or a result is stored also where there is no room, because the work is done; submit_run is what refuses then. A model
-- that is imported must find room. The platform's own files count for nobody.
create function pgtrain_private.count_file_storage() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if old.owner_id is not null then
        perform pgtrain_private.move_usage(old.owner_id, 'storage_bytes',
            case when tg_op = 'UPDATE' then new.counted_bytes - old.counted_bytes else -old.counted_bytes end, old.run_id, old.run_id is not null);
    end if;
    return null;
end $$;
comment on function pgtrain_private.count_file_storage() is 'Deferred row trigger: stored files count as the storage of the owner of their run or model';
create constraint trigger count_changed_storage after update on pgtrain_private.stored_files deferrable initially deferred
    for each row when (old.counted_bytes <> new.counted_bytes) execute function pgtrain_private.count_file_storage();
create constraint trigger count_removed_storage after delete on pgtrain_private.stored_files deferrable initially deferred
    for each row when (old.counted_bytes > 0) execute function pgtrain_private.count_file_storage();
