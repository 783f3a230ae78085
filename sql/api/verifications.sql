-- Verifications, functions: the second factor of a login.

create or replace function pgtrain_private.check_second_factor(user_id bigint, code text) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- Nobody can have a confirmed second factor before pgtrain.enable_totp is there.
    return not exists (select from pgtrain.verifications v where v.owner_id = check_second_factor.user_id and v.type = 'totp');
end $$;
comment on function pgtrain_private.check_second_factor(bigint, text) is 'Whether a login may go on: the user has no second factor, or the code is right';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
