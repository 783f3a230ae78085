-- Generation: text written by a model, for one prompt or many, whole or in pieces as it is written. A trainer on the CPU does it, as a
-- child of the session; a cancelled query ends it.

create or replace function pgtrain_private.generate_pieces(request jsonb, out prompt integer, out text text, out end_reason text,
                                                           out prompt_tokens integer, out tokens integer) returns setof record
    language c volatile strict rows 100 as 'MODULE_PATHNAME', 'pgtrain_generate_pieces';
comment on function pgtrain_private.generate_pieces(jsonb) is 'Pieces of text as a model writes them, asked for by generation_request';

-- A checkpoint is used with the rights to its run's model, or to the run.
create or replace function pgtrain_private.find_checkpoint(name text) returns pgtrain.checkpoints
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    parts text[] := regexp_match(name, '^(.+):ckpt-step-(\d{1,18})$');
    runs bigint[];
    found_ones pgtrain.checkpoints[];
    kept text;
begin
    if parts[1] ~ '^ftjob-\d{1,18}$' then
        select array_agg(r.id) into runs from pgtrain.training_runs r
         where r.id = substr(parts[1], 7)::bigint
           and (pgtrain_private.may_access(r.owner_id, 'read', 'training') or pgtrain_private.is_server_administrator()
                or exists (select from pgtrain.models m where m.run_id = r.id and pgtrain_private.may_use_model(m)));
    end if;
    if runs is null then
        -- One's own before those of others.
        select array_agg(x.run_id) into runs
          from (select m.run_id, rank() over (order by m.owner_id is not distinct from pgtrain.current_user_id() desc) as place from pgtrain.models m
                 where m.name || '' = parts[1] and m.run_id is not null and pgtrain_private.may_use_model(m)) x where x.place = 1;
    end if;
    if runs is null then
        return null;
    end if;
    select array_agg(c) filter (where c.step = parts[2]::bigint), string_agg(format('%s:ckpt-step-%s', parts[1], c.step), ', ' order by c.step)
      into found_ones, kept from pgtrain.checkpoints c where c.run_id = any (runs);
    if found_ones is null then
        raise exception using errcode = 'PT404', message = format('checkpoint %s is not kept', quote_literal(left(name, 300))),
            detail = coalesce('Kept: ' || kept || '.', 'The run keeps none.'),
            hint = 'In a run''s config, keep_checkpoints says how many of the latest are kept, and keep_best the best one too.';
    elsif cardinality(found_ones) > 1 then
        raise exception using errcode = '22023', message = format('more than one checkpoint is named %s', quote_literal(left(name, 300))),
            detail = format('Checkpoints: %s.', (select string_agg(format('ftjob-%s:ckpt-step-%s', c.run_id, c.step), ', ' order by c.id) from unnest(found_ones) c)), hint = 'Give one of these names.';
    end if;
    return found_ones[1];
end $$;
comment on function pgtrain_private.find_checkpoint(text) is 'The checkpoint of that name, MODEL:ckpt-step-N or ftjob-RUN:ckpt-step-N, if the caller may use its run''s model; null for other names';

create or replace function pgtrain_private.require_result(run pgtrain.training_runs) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if run.status <> 'succeeded' then
        raise exception using errcode = 'PT409', message = format('run %s has no model yet: it is %s', run.id, run.status),
            detail = coalesce('Checkpoints: ' || (select string_agg(pgtrain_private.checkpoint_name(run, c.step), ', ' order by c.step) from pgtrain.checkpoints c where c.run_id = run.id) || '.',
                              'It has no checkpoint either.'),
            hint = case run.status when 'paused' then 'pgtrain.resume_run queues it again.' when 'failed' then 'pgtrain.retry_run queues it again.'
                                   when 'cancelled' then 'pgtrain.retry_run queues it again.' else 'pgtrain.wait_for_run waits for its end.' end;
    end if;
end $$;
comment on function pgtrain_private.require_result(pgtrain.training_runs) is 'Refuses a run that has not succeeded, naming the checkpoints that can be used meanwhile';

-- Which run's model is meant, or which imported one, or which checkpoint. One answer for what is not there and what may not be read.
create or replace function pgtrain_private.choose_model(run_id bigint, model_id bigint, model text) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    chosen record;
    kept pgtrain.checkpoints;
    run pgtrain.training_runs;
begin
    if num_nonnulls(run_id, model_id, model) <> 1 then
        raise exception using errcode = '22023', message = 'give either run_id or model_id or model, the name of a model';
    end if;
    if choose_model.run_id is null then
        -- Of models of one name one's own goes before others that one may use.
        select m.id, m.run_id, m.kind into chosen from pgtrain.models m
         where (m.id = choose_model.model_id or m.name || '' = choose_model.model) and pgtrain_private.may_use_model(m)
         order by m.owner_id = pgtrain.current_user_id() desc nulls last, m.kind = 'local' desc, m.id limit 1;
        if chosen.kind = 'local' then
            return case when chosen.run_id is not null then jsonb_build_object('run_id', chosen.run_id) else jsonb_build_object('model_id', chosen.id) end;
        end if;
        kept := pgtrain_private.find_checkpoint(choose_model.model);
        if kept.id is null then
            raise exception using errcode = 'PT404',
                message = format('model %s does not exist, is not yours, or is not here', coalesce(quote_literal(left(choose_model.model, 200)), choose_model.model_id::text)),
                hint = 'Of those in pgtrain.models, models of kind local can be asked; a checkpoint is named MODEL:ckpt-step-N or ftjob-RUN:ckpt-step-N.';
        end if;
        return jsonb_build_object('run_id', kept.run_id, 'checkpoint_id', kept.id);
    end if;
    run := pgtrain_private.find_run(choose_model.run_id, 'read');
    perform pgtrain_private.require_result(run);
    return jsonb_build_object('run_id', run.id);
end $$;
comment on function pgtrain_private.choose_model(bigint, bigint, text) is 'The model that is meant by run, key or name, or the checkpoint by its name, if the caller may use it';

create or replace function pgtrain_private.check_conversation(messages jsonb, what text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    bad record;
begin
    if jsonb_typeof(messages) is distinct from 'array' or jsonb_array_length(messages) = 0 then
        raise exception using errcode = '22023', message = format('%s is not a list of messages', what), hint = 'Give [{"role": "user", "content": "..."}].';
    end if;
    select m.n - 1 as place, m.message into bad from jsonb_array_elements(messages) with ordinality m (message, n)
     where (jsonb_typeof(m.message->'role') = 'string' and (jsonb_typeof(m.message->'content') = 'string' or jsonb_typeof(m.message->'tool_calls') = 'array')) is not true
     order by m.n limit 1;
    if found then
        raise exception using errcode = '22023', message = format('%s[%s] is not a message', what, bad.place),
            detail = 'It has no string "role", or neither a string "content" nor a list "tool_calls".', hint = 'Give [{"role": "user", "content": "..."}].';
    end if;
end $$;
comment on function pgtrain_private.check_conversation(jsonb, text) is 'Refuses what is no list of messages, naming the place';

create or replace function pgtrain_private.generation_request(prompts text[], conversations jsonb, max_tokens integer,
    temperature double precision, top_k integer, top_p double precision, min_p double precision, repetition_penalty double precision, stop text[], seed bigint)
    returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    is_chat boolean := conversations is not null;
begin
    if num_nulls(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty) > 0 then
        raise exception using errcode = '22004', message = 'max_tokens, temperature, top_k, top_p, min_p and repetition_penalty may not be null',
            hint = 'Leave an option out to take its default.';
    elsif max_tokens not between 1 and 32768 or not temperature between 0 and 10 or top_k < 0 or not (top_p > 0 and top_p <= 1)
          or not (min_p >= 0 and min_p <= 1) or not (repetition_penalty > 0 and repetition_penalty <= 10) then
        raise exception using errcode = '22023', message = 'an option of generate is out of range',
            detail = format('max_tokens %s (1 to 32768), temperature %s (0 to 10), top_k %s (0 or more), top_p %s (above 0, at most 1), min_p %s (0 to 1), repetition_penalty %s (above 0, at most 10).',
                            max_tokens, temperature, top_k, top_p, min_p, repetition_penalty);
    elsif cardinality(stop) > 16 or exists (select from unnest(stop) s where s is null or octet_length(s) not between 1 and 1000) then
        raise exception using errcode = '22023', message = 'stop has up to 16 texts of 1 to 1000 bytes';
    end if;
    if is_chat and array_to_string(prompts, '') <> '' then
        raise exception using errcode = '22023', message = 'give either a prompt or messages', hint = 'A prompt beside messages is another message, of role user or system.';
    elsif is_chat then
        perform pgtrain_private.check_conversation(c.messages, format('conversation %s', c.n)) from jsonb_array_elements(conversations) with ordinality c (messages, n);
        prompts := array(select c.messages::text from jsonb_array_elements(conversations) with ordinality c (messages, n) order by c.n);
    end if;
    if coalesce(cardinality(prompts), 0) not between 1 and 1024 or exists (select from unnest(prompts) p where p is null) then
        raise exception using errcode = case when array_position(array(select p from unnest(prompts) p), null) > 0 then '22004' else '22023' end,
            message = 'there must be 1 to 1024 prompts, none of them null';
    elsif (select sum(octet_length(p)) from unnest(prompts) p) > 3145728 then
        raise exception using errcode = '22023', message = format('the prompts have %s bytes', (select sum(octet_length(p)) from unnest(prompts) p)),
            hint = 'Give at most 3145728 bytes in all; a model sees no more than its context.';
    end if;
    return jsonb_build_object('prompts', prompts, 'is_chat', is_chat, 'max_tokens', max_tokens, 'temperature', temperature, 'top_k', top_k, 'top_p', top_p,
                              'min_p', min_p, 'repetition_penalty', repetition_penalty, 'stop', coalesce(to_jsonb(stop), '[]'),
                              'seed', coalesce(seed, (random() * 9007199254740991)::bigint));
end $$;
comment on function pgtrain_private.generation_request(text[], jsonb, integer, double precision, integer, double precision, double precision, double precision, text[], bigint) is
    'Checks what is asked of a model and puts it together; with what choose_model gives it is what generate_pieces takes';

create or replace function pgtrain.generate(run_id bigint default null, prompt text default '', max_tokens integer default 64,
    temperature double precision default 0.8, top_k integer default 50, top_p double precision default 1, seed bigint default null,
    model_id bigint default null, model text default null, messages jsonb default null, min_p double precision default 0,
    repetition_penalty double precision default 1, stop text[] default null) returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    return (select coalesce(string_agg(p.text, '' order by p.n), '')
              from pgtrain_private.generate_pieces(pgtrain_private.generation_request(array[prompt], case when messages is not null then jsonb_build_array(messages) end,
                       max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed) || pgtrain_private.choose_model(run_id, model_id, model)) with ordinality p (prompt, text, end_reason, prompt_tokens, tokens, n));
end $$;
comment on function pgtrain.generate(bigint, text, integer, double precision, integer, double precision, bigint, bigint, text, jsonb, double precision, double precision, text[]) is
    'Text that a model writes behind a prompt, or as the answer to messages; the model is given by its run, key or name, a checkpoint by its name. Equal seeds give equal text. Runs in a separate program on the CPU and can be cancelled';

create or replace function pgtrain.generate_many(prompts text[] default null, conversations jsonb default null, run_id bigint default null,
    model_id bigint default null, model text default null, max_tokens integer default 64, temperature double precision default 0.8,
    top_k integer default 50, top_p double precision default 1, min_p double precision default 0, repetition_penalty double precision default 1,
    stop text[] default null, seed bigint default null)
    returns table (ordinal integer, text text, end_reason text, prompt_tokens integer, tokens integer)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if num_nonnulls(prompts, conversations) <> 1 then
        raise exception using errcode = '22023', message = 'give either prompts or conversations';
    elsif jsonb_typeof(conversations) <> 'array' then
        raise exception using errcode = '22023', message = 'conversations is not a list', hint = 'Give [[{"role": "user", "content": "..."}], ...].';
    end if;
    return query
        select p.prompt, string_agg(p.text, '' order by p.n), max(p.end_reason), max(p.prompt_tokens), max(p.tokens)
          from pgtrain_private.generate_pieces(pgtrain_private.generation_request(generate_many.prompts, generate_many.conversations,
                   generate_many.max_tokens, generate_many.temperature, generate_many.top_k, generate_many.top_p, generate_many.min_p,
                   generate_many.repetition_penalty, generate_many.stop, generate_many.seed)
                   || pgtrain_private.choose_model(generate_many.run_id, generate_many.model_id, generate_many.model)) with ordinality p (prompt, text, end_reason, prompt_tokens, tokens, n)
         group by p.prompt order by p.prompt;
end $$;
comment on function pgtrain.generate_many(text[], jsonb, bigint, bigint, text, integer, double precision, integer, double precision, double precision, double precision, text[], bigint) is
    'Text that a model writes behind each of many prompts or conversations, worked at together: why each ended (end_of_text, stop, max_tokens, context_full) and its tokens';

-- In SQL language and lazily: the rows of a cursor are fetched as they are written.
create or replace function pgtrain.generate_stream(run_id bigint default null, prompt text default '', max_tokens integer default 64,
    temperature double precision default 0.8, top_k integer default 50, top_p double precision default 1, seed bigint default null,
    model_id bigint default null, model text default null, messages jsonb default null, min_p double precision default 0,
    repetition_penalty double precision default 1, stop text[] default null) returns setof text
    language sql volatile security definer set search_path = pg_catalog, pg_temp rows 100 as $$
    select (pgtrain_private.generate_pieces(pgtrain_private.generation_request(array[prompt], case when messages is not null then jsonb_build_array(messages) end,
                max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed) || pgtrain_private.choose_model(run_id, model_id, model))).text
$$;
comment on function pgtrain.generate_stream(bigint, text, integer, double precision, integer, double precision, bigint, bigint, text, jsonb, double precision, double precision, text[]) is
    'As generate, in pieces as they are written: a row each. Through a cursor (in psql \set FETCH_COUNT 1) and selected as select pgtrain.generate_stream(...), each row comes when it is there';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
