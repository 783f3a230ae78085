#!/usr/bin/env bash
# Secrets sealed and opened a second, against pgcrypto in the same server and sitting: pgp_sym_encrypt and pgp_sym_decrypt (what its
# manual recommends; with its usual options, and with the cheapest key derivation) and raw encrypt_iv and decrypt_iv of AES, which authenticate nothing.
# Sealing is a statement a secret by store_secret, audit row and all, against an insert that encrypts; opening goes over a table at
# once, by the check behind secret_health, because nothing that SQL can call gives plain text. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The key is read by the postmaster before there is a data folder of ours to keep it in: so by a command.
start_server "pgtrain.cpu_workers = 0
pgtrain.root_key_command = 'echo 5e9f1c3a7b8d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7'
jit = off
max_parallel_workers_per_gather = 0"
make_users 1
rows=$(full 20000 4000)
rounds=$(full 9 5)
sql -c 'create extension pgcrypto' >/dev/null 2>&1 || { say 'pgcrypto is not installed: it comes with postgresql-contrib'; exit 1; }

sql >/dev/null <<END
create table bench.pgp (owner_id bigint, name text, body bytea, primary key (owner_id, name));
create table bench.pgp_cheap (like bench.pgp including all);
create table bench.raw (like bench.pgp including all);
create function bench.store_pgp(name text, value text) returns void language sql security definer set search_path = public, pg_catalog as
  \$\$ insert into bench.pgp values (1, name, pgp_sym_encrypt(value, 'a passphrase of the application')) on conflict (owner_id, name) do update set body = excluded.body \$\$;
create function bench.store_pgp_cheap(name text, value text) returns void language sql security definer set search_path = public, pg_catalog as
  \$\$ insert into bench.pgp_cheap values (1, name, pgp_sym_encrypt(value, 'a passphrase of the application', 's2k-mode=1, cipher-algo=aes256')) on conflict (owner_id, name) do update set body = excluded.body \$\$;
create function bench.store_raw(name text, value text) returns void language sql security definer set search_path = public, pg_catalog as
  \$\$ insert into bench.raw select 1, name, iv || encrypt_iv(convert_to(value, 'UTF8'), '\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', iv, 'aes')
       from (select gen_random_bytes(16) as iv) v on conflict (owner_id, name) do update set body = excluded.body \$\$;
grant usage on schema bench to app;
grant execute on all functions in schema bench to app;
END

# One client, a statement a secret, values of 64 bytes.
for way in pgtrain pgp pgp_cheap raw; do
  call=bench.store_$way
  [ $way = pgtrain ] && call=pgtrain.store_secret
  cat >"$server_folder/store_$way.sql" <<END
\\if :ready = 0
select token from bench.tokens where n = 1 \\gset
select pgtrain.authenticate(:token::text, session => true);
\\set ready 1
\\endif
\\set n random(1, 1000)
select $call('name' || :n, repeat('sixteen bytes ..', 4));
END
done
say "## sealed and stored a second, one client, a statement each, values of 64 bytes"
for _ in $(seq "$rounds"); do
  for way in pgtrain pgp pgp_cheap raw; do pgbench_rate -U app -D ready=0 -T "$(full 4 2)" -f "$server_folder/store_$way.sql" >>"$server_folder/store_$way"; done
done
ours=$(median <"$server_folder/store_pgtrain")
printf '%-44s %s\n' 'pgtrain.store_secret (with audit row)' "$ours"
for way in pgp pgp_cheap raw; do
  peer=$(median <"$server_folder/store_$way")
  printf '%-44s %-36s ours/peer %s\n' "pgcrypto $way" "$peer" "$(ratio "$ours" "$peer")"
done

# The cipher alone: a table at once.
sql -v rows="$rows" >/dev/null <<'END'
select token from bench.tokens where n = 1 \gset
select pgtrain.authenticate(:'token', session => true);
delete from pgtrain.secrets;
set pgtrain.secrets_per_user = -1;
select count(pgtrain.store_secret('name' || g, repeat('sixteen bytes ..', 4))) from generate_series(1, :rows) g;
create table bench.sealed as select sealed, 'secrets/sealed/' || owner_id || '/' || name as identity from pgtrain.secrets;
create table bench.ciphers as
  select pgp_sym_encrypt(repeat('sixteen bytes ..', 4), 'a passphrase of the application') as pgp,
         pgp_sym_encrypt(repeat('sixteen bytes ..', 4), 'a passphrase of the application', 's2k-mode=1, cipher-algo=aes256') as pgp_cheap,
         encrypt_iv(repeat('sixteen bytes ..', 4)::bytea, '\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', '\x000102030405060708090a0b0c0d0e0f', 'aes') as raw
    from generate_series(1, :rows);
vacuum analyze bench.sealed, bench.ciphers;
END
rate() { # expression that yields a value a row, table
  sql -c "explain (analyze, timing off, format text) select count($1) from bench.$2" | sed -n 's/^Execution Time: \(.*\) ms/\1/p' |
    awk -v rows="$rows" '{ printf "%.0f\n", rows / $1 * 1000 }'
}
raw_key="'\\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', '\\x000102030405060708090a0b0c0d0e0f', 'aes'"
declare -A opening=(
  [pgtrain]="coalesce(pgtrain_private.sealed_problem(sealed, identity), 'opens')|sealed"
  [pgp]="pgp_sym_decrypt(pgp, 'a passphrase of the application')|ciphers"
  [pgp_cheap]="pgp_sym_decrypt(pgp_cheap, 'a passphrase of the application')|ciphers"
  [raw]="decrypt_iv(raw, $raw_key)|ciphers")
[ "$(sql -c 'select count(*) from bench.sealed where pgtrain_private.sealed_problem(sealed, identity) is null')" = "$rows" ] || die 'not every secret opens'
say "## opened a second, $rows rows in one statement, values of 64 bytes"
for _ in $(seq "$rounds"); do
  for way in pgtrain pgp pgp_cheap raw; do rate "${opening[$way]%|*}" "${opening[$way]##*|}" >>"$server_folder/open_$way"; done
done
ours=$(median <"$server_folder/open_pgtrain")
printf '%-44s %s\n' 'pgtrain, opened and checked' "$ours"
for way in pgp pgp_cheap raw; do
  peer=$(median <"$server_folder/open_$way")
  printf '%-44s %-36s ours/peer %s\n' "pgcrypto $way" "$peer" "$(ratio "$ours" "$peer")"
done
say "## opened and sealed anew a second (what rotation does to a row, without the write)"
for _ in $(seq "$rounds"); do rate "pgtrain_private.seal_again(sealed, identity)" sealed >>"$server_folder/again"; done
printf '%-44s %s\n' 'pgtrain_private.seal_again' "$(median <"$server_folder/again")"
