-- Sealing: which columns of the schema hold sealed secrets, and what looks at them without opening them to anybody. Sealed bytes name
-- the root key that they need; src/pg/crypto/seal.hpp has their form. No function returns plain text.

create table pgtrain_private.sealed_columns (
    table_name name not null,
    column_name name not null,
    key_columns name[] not null check (cardinality(key_columns) > 0),
    owner_column name not null,
    label_column name not null,
    condition text not null default 'true',
    primary key (table_name, column_name)
);
comment on table pgtrain_private.sealed_columns is 'Columns of schema pgtrain that hold sealed secrets: what rotation and the health view go through';
comment on column pgtrain_private.sealed_columns.table_name is 'Table in schema pgtrain';
comment on column pgtrain_private.sealed_columns.column_name is 'Column of sealed bytes';
comment on column pgtrain_private.sealed_columns.key_columns is 'Columns that make the identity of a row: TABLE/COLUMN/ and their values, parted by slashes';
comment on column pgtrain_private.sealed_columns.owner_column is 'Column of the user whose secret it is';
comment on column pgtrain_private.sealed_columns.label_column is 'Column that tells the rows of one owner apart';
comment on column pgtrain_private.sealed_columns.condition is 'Which rows are sealed, as a condition in SQL';

create function pgtrain_private.sealed_key(sealed bytea) returns text
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'pgtrain_sealed_key';
comment on function pgtrain_private.sealed_key(bytea) is 'Id of the root key that sealed bytes need, null for bytes that are not sealed';

create function pgtrain_private.register_sealed(table_name name, column_name name, key_columns name[], owner_column name, label_column name,
                                                condition text default 'true') returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into pgtrain_private.sealed_columns
    values (table_name, column_name, key_columns, owner_column, label_column, condition);
    -- Rotation asks for the rows under an old key every few seconds.
    execute format('create index %I on pgtrain.%I (pgtrain_private.sealed_key(%I)) where %s',
                   table_name || '_' || column_name || '_key_idx', table_name, column_name, condition);
end $$;
comment on function pgtrain_private.register_sealed(name, name, name[], name, name, text) is 'For install and update scripts: makes rotation and the health view know a column of sealed bytes';
