-- Data, functions: making datasets, adding samples, freezing. Adding locks the dataset row, so ordinals have no gaps and the chain
-- hash follows the order.

create or replace function pgtrain_private.check_samples(samples text[], first_ordinal bigint) returns void
    language c immutable as 'MODULE_PATHNAME', 'pgtrain_check_samples';
comment on function pgtrain_private.check_samples(text[], bigint) is 'Refuses null, empty and badly encoded samples, naming the ordinal';
create or replace function pgtrain_private.check_records(records jsonb[], first_ordinal bigint, wanted text) returns text[]
    language c immutable as 'MODULE_PATHNAME', 'pgtrain_check_records';
comment on function pgtrain_private.check_records(jsonb[], bigint, text) is 'Refuses records that cannot be trained on or are not of the wanted format (null: any), naming ordinal and field; returns the formats found';
create or replace function pgtrain_private.chain_hash(start bytea, hashes bytea[]) returns bytea
    language c immutable strict as 'MODULE_PATHNAME', 'pgtrain_chain_hash';
comment on function pgtrain_private.chain_hash(bytea, bytea[]) is 'Folds hashes into a chain in order: chain = SHA-256(chain, hash)';

-- The text of a sample, as it is trained on and counted.
-- Written so that the planner puts it in place of its calls: parsed when it is made (so it needs no search_path), not strict, immutable.
create or replace function pgtrain_private.sample_text(content jsonb) returns text
    language sql immutable parallel safe
    return coalesce(content ->> 'text', (content ->> 'prompt') || E'\n' || (content ->> 'completion'));
comment on function pgtrain_private.sample_text(jsonb) is 'Text of a sample: text, or prompt and completion on lines of their own; null for messages and preferences, which only a template makes text of';
create or replace function pgtrain_private.sample_bytes(content jsonb) returns integer
    language sql immutable parallel safe
    return octet_length(coalesce(content ->> 'text', (content ->> 'prompt') || E'\n' || (content ->> 'completion'), content::text));
comment on function pgtrain_private.sample_bytes(jsonb) is 'What a sample counts as: bytes of its text, or of its JSON where it has none';

create or replace function pgtrain.create_dataset(name text, description text default null, type text default 'text', format text default null,
    source text default null, license text default null, tags text[] default '{}', metadata jsonb default '{}') returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
    new_id bigint;
begin
    perform pgtrain_private.require_writable('create_dataset');
    perform pgtrain_private.require_permission('create', 'datasets');
    if name is null or length(name) not between 1 and 200 then
        raise exception using errcode = '22023', message = 'a dataset needs a name of 1 to 200 characters';
    end if;
    if (create_dataset.type = any (enum_range(null::pgtrain.dataset_type)::text[])) is not true then
        raise exception using errcode = '22023', message = pg_catalog.format('dataset type "%s" is unknown', create_dataset.type),
            detail = pg_catalog.format('Types: %s.', array_to_string(enum_range(null::pgtrain.dataset_type), ', '));
    end if;
    if jsonb_typeof(create_dataset.metadata) <> 'object' then
        raise exception using errcode = '22023', message = pg_catalog.format('metadata must be a JSON object, not %s', jsonb_typeof(create_dataset.metadata));
    end if;
    if not create_dataset.format = any (enum_range(null::pgtrain.dataset_format)::text[]) then
        raise exception using errcode = '22023', message = pg_catalog.format('dataset format "%s" is unknown', create_dataset.format),
            detail = pg_catalog.format('Formats: %s.', array_to_string(enum_range(null::pgtrain.dataset_format), ', '));
    end if;
    insert into pgtrain.datasets (owner_id, name, description, type, format, is_format_fixed, source, license, tags, metadata)
    values (me, create_dataset.name, create_dataset.description, create_dataset.type::pgtrain.dataset_type,
            coalesce(create_dataset.format, 'text')::pgtrain.dataset_format, create_dataset.format is not null, create_dataset.source, create_dataset.license,
            coalesce(create_dataset.tags, '{}'), coalesce(create_dataset.metadata, '{}'))
    returning id into new_id;
    perform pgtrain_private.write_audit('dataset_created', null, jsonb_build_object('dataset_id', new_id));
    return new_id;
exception when unique_violation then
    raise exception using errcode = '23505', message = pg_catalog.format('you have a dataset "%s" already', name),
        hint = 'Choose another name, or add to that one with pgtrain.append_samples.';
end $$;
comment on function pgtrain.create_dataset(text, text, text, text, text, text, text[], jsonb) is 'Makes an empty dataset of the caller; with a format it takes only samples of that, else its samples say which it has. Returns its id';

-- Locks a dataset that the caller may change and returns it.
create or replace function pgtrain_private.lock_dataset(dataset_id bigint) returns pgtrain.datasets
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    dataset pgtrain.datasets;
begin
    perform pgtrain_private.require_permission('update', 'datasets');
    -- What the caller may not reach looks as if it were not there: so it is not locked either, nor waited for.
    -- The key stays, so that runs can be submitted from it meanwhile.
    select * into dataset from pgtrain.datasets d
     where d.id = lock_dataset.dataset_id and (pgtrain_private.may_access(d.owner_id, 'update', 'datasets') or pgtrain_private.is_server_administrator())
       for no key update;
    if not found then
        raise exception using errcode = 'PT404', message = format('dataset %s does not exist', coalesce(lock_dataset.dataset_id::text, 'null')),
            hint = 'pgtrain.datasets lists yours.';
    end if;
    return dataset;
end $$;
comment on function pgtrain_private.lock_dataset(bigint) is 'Locks a dataset for adding, if the caller may change it';

create or replace function pgtrain_private.insert_samples(dataset pgtrain.datasets, contents jsonb[], kinds pgtrain.dataset_format[]) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    hashes bytea[];
    added bigint := coalesce(cardinality(contents), 0);
    counter pgtrain.user_usage_limits;
    size bigint;
begin
    with added_rows as (
        insert into pgtrain.dataset_samples (dataset_id, ordinal, owner_id, content, content_hash)
        select dataset.id, dataset.sample_count + c.place, dataset.owner_id, c.content, sha256(convert_to(c.content::text, 'UTF8'))
          from unnest(contents) with ordinality c (content, place)
        returning ordinal, content_hash, pgtrain_private.sample_bytes(content) as bytes),
    now_there as (select array(select distinct k from unnest(dataset.kinds || insert_samples.kinds) k order by k) as kinds),
    totals as (
        select array_agg(content_hash order by ordinal) as hashes, coalesce(sum(bytes), 0) as bytes, coalesce(max(bytes), 0) as longest from added_rows)
    update pgtrain.datasets d
       set sample_count = d.sample_count + added, loaded_samples = d.loaded_samples + added, size_bytes = d.size_bytes + totals.bytes,
           longest_bytes = greatest(d.longest_bytes, totals.longest), kinds = now_there.kinds,
           format = case when d.is_format_fixed or cardinality(now_there.kinds) = 0 then d.format
                         when cardinality(now_there.kinds) > 1 then 'mixed' else now_there.kinds[1] end,
           content_hash = pgtrain_private.chain_hash(d.content_hash, coalesce(totals.hashes, '{}'))
      from totals, now_there where d.id = dataset.id
    returning d.size_bytes into size;
    -- It is the commit that counts it, and refuses what others have made too much meanwhile; here it shows which call is too much.
    select * into counter from pgtrain.user_usage_limits l where l.user_id = dataset.owner_id and l.resource_type = 'storage_bytes';
    if counter.limit_value >= 0 and counter.used_value + size - dataset.size_bytes > counter.limit_value then
        perform pgtrain_private.refuse_usage(counter, size - dataset.size_bytes);
    end if;
    return dataset.sample_count + added;
end $$;
comment on function pgtrain_private.insert_samples(pgtrain.datasets, jsonb[], pgtrain.dataset_format[]) is 'Adds checked samples of those formats to a locked dataset and keeps its counters and hash; returns the new number of samples';

create or replace function pgtrain.append_samples(dataset_id bigint, samples text[]) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dataset pgtrain.datasets;
begin
    perform pgtrain_private.require_writable('append_samples');
    if samples is null then
        raise exception using errcode = '22004', message = 'samples may not be null';
    end if;
    dataset := pgtrain_private.lock_dataset(append_samples.dataset_id);
    if dataset.is_format_fixed and dataset.format not in ('text', 'mixed') then
        raise exception using errcode = 'PT422', message = format('dataset %s takes samples of the format %s, not text', dataset.id, dataset.format),
            hint = 'Add them with pgtrain.append_records.';
    end if;
    perform pgtrain_private.check_samples(samples, dataset.sample_count + 1);
    return pgtrain_private.insert_samples(dataset, (select array_agg(jsonb_build_object('text', t) order by n) from unnest(samples) with ordinality s (t, n)),
                                          case when cardinality(samples) > 0 then array['text']::pgtrain.dataset_format[] else '{}' end);
end $$;
comment on function pgtrain.append_samples(bigint, text[]) is 'Adds texts to a dataset, all or none; returns its number of samples then';

create or replace function pgtrain.append_records(dataset_id bigint, records jsonb[]) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dataset pgtrain.datasets;
begin
    perform pgtrain_private.require_writable('append_records');
    if records is null then
        raise exception using errcode = '22004', message = 'records may not be null';
    end if;
    dataset := pgtrain_private.lock_dataset(append_records.dataset_id);
    return pgtrain_private.insert_samples(dataset, records, pgtrain_private.check_records(records, dataset.sample_count + 1,
        case when dataset.is_format_fixed and dataset.format <> 'mixed' then dataset.format::text end)::pgtrain.dataset_format[]);
end $$;
comment on function pgtrain.append_records(bigint, jsonb[]) is 'Adds JSON samples ({"text"}, {"prompt", "completion"}, {"messages"} or {"prompt", "chosen", "rejected"}) to a dataset, all or none; returns its number of samples then';

-- Runs the query as the caller (no definer rights), read-only, then adds its rows by append_samples or append_records.
create or replace function pgtrain.dataset_from_query(name text, query text, description text default null) returns bigint
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_dataset_from_query';
comment on function pgtrain.dataset_from_query(text, text, text) is 'Makes a dataset of a query, which runs with the caller''s own rights and cannot write: of one text column, of columns named prompt and completion, messages, or prompt, chosen and rejected, or of one jsonb column of records; returns its id';

create or replace function pgtrain.delete_dataset(dataset_id bigint, force boolean default false) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dataset pgtrain.datasets;
    needing bigint[];
    others bigint;
begin
    perform pgtrain_private.require_writable('delete_dataset');
    perform pgtrain_private.require_permission('delete', 'datasets');
    select * into dataset from pgtrain.datasets d
     where d.id = delete_dataset.dataset_id and (pgtrain_private.may_access(d.owner_id, 'delete', 'datasets') or pgtrain_private.is_server_administrator())
       for update;
    if not found then
        raise exception using errcode = 'PT404', message = format('dataset %s does not exist', coalesce(delete_dataset.dataset_id::text, 'null'));
    end if;
    if not coalesce(delete_dataset.force, false) then
        select array_agg(r.id order by r.id) filter (where r.owner_id is not distinct from dataset.owner_id),
               count(*) filter (where r.owner_id is distinct from dataset.owner_id)
          into needing, others
          from pgtrain.training_run_datasets p join pgtrain.training_runs r on r.id = p.training_run_id
         where p.dataset_id = dataset.id and r.status in ('queued', 'running', 'paused');
        if needing is not null or others > 0 then
            raise exception using errcode = 'PT409', message = format('dataset %s is needed by runs', dataset.id),
                detail = concat_ws(' ', 'Runs: ' || array_to_string(needing[1:20], ', ') || '.', case when others > 0 then format('Runs of others: %s.', others) end),
                hint = 'Wait for their end or cancel them; force => true deletes it all the same: those that have not begun, or must begin again, fail with data_invalid.';
        end if;
    end if;
    delete from pgtrain.datasets d where d.id = dataset.id;
    perform pgtrain_private.write_audit('dataset_deleted', null, jsonb_build_object('dataset_id', dataset.id, 'name', dataset.name));
end $$;
comment on function pgtrain.delete_dataset(bigint, boolean) is 'Removes a dataset with all its samples. Refused while runs need it, unless forced';

insert into pgtrain_private.writable_columns
select 'datasets', c from unnest(array['name', 'description', 'source', 'license', 'tags', 'metadata', 'is_active']) c
on conflict do nothing;

revoke all on all routines in schema pgtrain, pgtrain_private from public;
