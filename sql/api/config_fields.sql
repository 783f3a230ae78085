-- What may stand in the configuration of a run. The one list is compiled in (src/protocol/config_table.cpp): what is shown here
-- is what submit_run checks against.

create or replace function pgtrain_private.config_field_lines() returns text
    language c immutable parallel safe as 'MODULE_PATHNAME', 'pgtrain_config_field_lines';
comment on function pgtrain_private.config_field_lines() is 'All fields of a run''s configuration, one line each, columns parted by tabs';

create or replace function pgtrain.config_fields()
    returns table (name text, kind text, default_value text, default_rule text, minimum double precision, maximum double precision,
                   choices text[], unit text, description text)
    language sql immutable security definer set search_path = pg_catalog, pg_temp as $$
    select f[1], f[2], nullif(f[3], ''), nullif(f[4], ''), nullif(f[5], '')::double precision, nullif(f[6], '')::double precision,
           string_to_array(nullif(f[7], ''), '|'), nullif(f[8], ''), f[9]
      from regexp_split_to_table(pgtrain_private.config_field_lines(), '\n') with ordinality l (line, place),
           lateral string_to_array(line, E'\t') f
     order by place;
$$;
comment on function pgtrain.config_fields() is 'What may stand in the configuration of a run: each field with kind, default, range or choices, unit and meaning';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
