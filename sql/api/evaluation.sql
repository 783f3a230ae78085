-- Evaluation of a model on the samples of a dataset: loss, perplexity and token accuracy, and its answers to the questions that the
-- dataset holds, beside those of the model that it was made from. Every number says on how many samples it was measured.

create or replace function pgtrain_private.evaluate_model(choice jsonb, dataset_id bigint, samples bigint) returns jsonb
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_evaluate_model';
comment on function pgtrain_private.evaluate_model(jsonb, bigint, bigint) is 'Loss and accuracy of a chosen model on the first so many samples of a dataset, with how many tokens or pairs and samples that were';

-- What a run was frozen on may be gone, or its bytes be elsewhere: then only the run's model is measured.
create or replace function pgtrain_private.evaluate_base(choice jsonb, dataset_id bigint, samples bigint) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.evaluate_model(choice, dataset_id, samples);
exception when sqlstate 'PT404' or sqlstate 'PT503' then
    raise notice 'not measured before training: %', sqlerrm;
    return null;
end $$;
comment on function pgtrain_private.evaluate_base(jsonb, bigint, bigint) is 'As evaluate_model, of the model that a run started from; null with a notice where that is not there any more';

create or replace function pgtrain_private.words_of(answer text) returns text[]
    language sql immutable parallel safe
    return regexp_split_to_array(btrim(regexp_replace(lower(answer), '[^[:alnum:]]+', ' ', 'g')), ' ');
comment on function pgtrain_private.words_of(text) is 'Words of a text in small letters, without punctuation';

create or replace function pgtrain_private.answer_score(answer text, expected text) returns double precision
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    given text[] := pgtrain_private.words_of(answer);
    wanted text[] := pgtrain_private.words_of(expected);
    common bigint;
begin
    if given = wanted then
        return 1;
    end if;
    select coalesce(sum(least(g.n, w.n)), 0) into common
      from (select word, count(*) as n from unnest(given) word where word <> '' group by word) g
      join (select word, count(*) as n from unnest(wanted) word where word <> '' group by word) w using (word);
    return 2.0 * common / (cardinality(given) + cardinality(wanted));
end $$;
comment on function pgtrain_private.answer_score(text, text) is 'Agreement of an answer with the expected one: F1 of both as bags of words, as question answering is scored';

create or replace function pgtrain_private.squeezed(answer text) returns text
    language sql immutable parallel safe
    return btrim(regexp_replace(answer, '\s+', ' ', 'g'));
comment on function pgtrain_private.squeezed(text) is 'A text without space around it and with single spaces within';

-- A question is what stands before the last answer of a sample.
create or replace function pgtrain_private.questions_of(dataset pgtrain.datasets, samples bigint, has_base boolean, most integer,
                                                        out ordinal bigint, out prompt jsonb, out expected text) returns setof record
    language plpgsql stable rows 100 set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if 'messages' = any (dataset.kinds) then
        return query
            select s.ordinal, (select jsonb_agg(m.message order by m.n) from jsonb_array_elements(c.list) with ordinality m (message, n) where m.n < c.last), c.list->(c.last - 1)::integer->>'content'
              from pgtrain.dataset_samples s,
                   lateral (select coalesce(s.content->'messages', (s.content->'prompt') || (s.content->'completion')) as list) l,
                   lateral (select l.list, max(m.n) as last from jsonb_array_elements(l.list) with ordinality m (message, n)
                             where m.message->>'role' = 'assistant' and jsonb_typeof(m.message->'content') = 'string' and m.message->'weight' is distinct from '0' group by l.list) c
             where s.dataset_id = dataset.id and s.ordinal <= samples and jsonb_typeof(l.list) = 'array' and c.last > 1
             order by s.ordinal limit most;
    else
        -- As it was trained: from scratch prompt and completion are lines of one text.
        return query
            select s.ordinal, to_jsonb(s.content->>'prompt' || case when has_base then '' else E'\n' end), s.content->>'completion'
              from pgtrain.dataset_samples s
             where s.dataset_id = dataset.id and s.ordinal <= samples and s.content ? 'completion' and s.content->>'prompt' <> ''
             order by s.ordinal limit most;
    end if;
end $$;
comment on function pgtrain_private.questions_of(pgtrain.datasets, bigint, boolean, integer) is 'Questions of a dataset with the expected answers: prompts, or conversations up to their last answer';

create or replace function pgtrain_private.name_of_choice(choice jsonb, run pgtrain.training_runs) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return case when choice ? 'checkpoint_id' then
                    (select pgtrain_private.checkpoint_name(run, c.step) from pgtrain.checkpoints c where c.id = (choice->>'checkpoint_id')::bigint)
                else coalesce((select m.name from pgtrain.models m
                                where m.id = coalesce((choice->>'model_id')::bigint, (select min(x.id) from pgtrain.models x where x.run_id = run.id))), run.name) end;
end $$;
comment on function pgtrain_private.name_of_choice(jsonb, pgtrain.training_runs) is 'How a chosen model or checkpoint is called';

create or replace function pgtrain_private.answers_of(choice jsonb, prompts jsonb[], is_chat boolean, max_tokens integer,
                                                      out n integer, out answer text, out end_reason text) returns setof record
    language sql volatile rows 100 set search_path = pg_catalog, pg_temp as $$
    select p.prompt, string_agg(p.text, '' order by p.place), max(p.end_reason)
      from pgtrain_private.generate_pieces(pgtrain_private.generation_request(
               case when not is_chat then array(select q #>> '{}' from unnest(prompts) with ordinality u (q, n) order by n) end,
               case when is_chat then to_jsonb(prompts) end, max_tokens, 0, 0, 1, 0, 1, null, 1) || choice) with ordinality p (prompt, text, end_reason, prompt_tokens, tokens, place)
     group by p.prompt
$$;
comment on function pgtrain_private.answers_of(jsonb, jsonb[], boolean, integer) is 'What a chosen model writes to each of many prompts, always its likeliest token';

create or replace function pgtrain_private.ask_questions(evaluation_id bigint, owner_id bigint, choice jsonb, base jsonb, dataset pgtrain.datasets, samples bigint,
                                                         has_base boolean, most integer, max_tokens integer) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    is_chat boolean := 'messages' = any (dataset.kinds);
    ordinals bigint[];
    prompts jsonb[];
    expected text[];
begin
    select array_agg(q.ordinal order by q.ordinal), array_agg(q.prompt order by q.ordinal), array_agg(q.expected order by q.ordinal)
      into ordinals, prompts, expected from pgtrain_private.questions_of(dataset, samples, has_base, most) q;
    if ordinals is null then
        raise exception using errcode = 'PT422', message = format('dataset %s ("%s") holds no questions', dataset.id, dataset.name),
            hint = 'A question is a prompt with a completion, or a conversation with an answer.';
    end if;
    insert into pgtrain.evaluation_answers (evaluation_id, ordinal, owner_id, prompt, expected, answer, end_reason, is_exact, score)
    select ask_questions.evaluation_id, ordinals[p.n], ask_questions.owner_id, prompts[p.n] #>> '{}', expected[p.n], p.answer, p.end_reason,
           pgtrain_private.squeezed(p.answer) = pgtrain_private.squeezed(expected[p.n]), pgtrain_private.answer_score(p.answer, expected[p.n])
      from pgtrain_private.answers_of(choice, prompts, is_chat, max_tokens) p;
    if base is not null then
        update pgtrain.evaluation_answers a
           set answer_before = p.answer, end_reason_before = p.end_reason, score_before = pgtrain_private.answer_score(p.answer, a.expected),
               is_exact_before = pgtrain_private.squeezed(p.answer) = pgtrain_private.squeezed(a.expected)
          from pgtrain_private.answers_of(base, prompts, is_chat, max_tokens) p
         where a.evaluation_id = ask_questions.evaluation_id and a.ordinal = ordinals[p.n];
    end if;
    update pgtrain.evaluations e
       set after_metrics = e.after_metrics || s.after_training, before_metrics = e.before_metrics || s.before_training
      from (select jsonb_build_object('questions', count(*), 'exact_match', avg(a.is_exact::integer), 'score', avg(a.score)) as after_training,
                   jsonb_build_object('questions', count(*), 'exact_match', avg(a.is_exact_before::integer), 'score', avg(a.score_before)) as before_training
              from pgtrain.evaluation_answers a where a.evaluation_id = ask_questions.evaluation_id) s
     where e.id = ask_questions.evaluation_id;
end $$;
comment on function pgtrain_private.ask_questions(bigint, bigint, jsonb, jsonb, pgtrain.datasets, bigint, boolean, integer, integer) is
    'Has a model, and the one it was made from, answer the questions of a dataset, always with the likeliest token, keeps the answers and scores them';

create or replace function pgtrain.evaluate(dataset_id bigint, run_id bigint default null, model_id bigint default null, model text default null,
    max_samples bigint default null, questions integer default 0, max_tokens integer default 64, notes text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    me bigint := pgtrain_private.require_user();
    dataset pgtrain.datasets;
    choice jsonb;
    base jsonb;
    run pgtrain.training_runs;
    samples bigint;
    before jsonb;
    after jsonb;
    made bigint;
    is_preference boolean;
begin
    perform pgtrain_private.require_writable('evaluate');
    perform pgtrain_private.require_permission('create', 'training');
    if max_samples < 1 or questions is null or questions not between 0 and 1024 or max_tokens is null or max_tokens not between 1 and 32768 then
        raise exception using errcode = '22023', message = 'an option of evaluate is out of range',
            detail = format('max_samples %s (1 or more), questions %s (0 to 1024), max_tokens %s (1 to 32768).', coalesce(max_samples::text, 'null'), coalesce(questions::text, 'null'), coalesce(max_tokens::text, 'null'));
    end if;
    select * into dataset from pgtrain.datasets d
     where d.id = evaluate.dataset_id and (d.is_public or pgtrain_private.may_access(d.owner_id, 'read', 'datasets'));
    if not found then
        raise exception using errcode = 'PT404', message = format('dataset %s does not exist or you may not read it', coalesce(evaluate.dataset_id::text, 'null'));
    elsif dataset.sample_count = 0 then
        raise exception using errcode = 'PT422', message = format('dataset %s ("%s") is empty', dataset.id, dataset.name);
    end if;
    choice := pgtrain_private.choose_model(evaluate.run_id, evaluate.model_id, evaluate.model);
    select * into run from pgtrain.training_runs r where r.id = (choice->>'run_id')::bigint;
    -- A whole imported model was not trained here, and one from scratch was made from nothing: its first weights are random.
    if run.config->>'base_model' <> '' then
        base := jsonb_build_object('run_id', run.id, 'is_base', true);
    elsif exists (select from pgtrain.models m where m.id = (choice->>'model_id')::bigint and m.base_model_id is not null) then
        base := jsonb_build_object('model_id', choice->'model_id', 'is_base', true);
    elsif dataset.kinds && array['messages', 'preference']::pgtrain.dataset_format[] and choice ? 'run_id' then
        raise exception using errcode = 'PT422', message = format('dataset %s ("%s") has samples that this model cannot read', dataset.id, dataset.name),
            detail = format('It has samples of the formats %s.', dataset.kinds), hint = 'A model that was trained from scratch reads text, and prompt with completion.';
    end if;
    -- Preferences are measured as DPO does, against the base model.
    is_preference := 'preference' = any (dataset.kinds);
    if is_preference then
        if cardinality(dataset.kinds) > 1 then
            raise exception using errcode = 'PT422', message = format('dataset %s ("%s") has preferences and other samples', dataset.id, dataset.name),
                detail = format('It has samples of the formats %s.', dataset.kinds), hint = 'They are measured in different ways: evaluate two datasets.';
        end if;
        choice := choice || jsonb_build_object('needs_base', base is not null);
    end if;
    samples := least(dataset.sample_count, max_samples);
    after := pgtrain_private.evaluate_model(choice, dataset.id, samples);
    before := pgtrain_private.evaluate_base(base, dataset.id, samples);
    -- Against itself a model gains nothing: what is left is which answers it finds the likelier ones.
    if is_preference and base is null then
        after := after - array['loss', 'reward_accuracy', 'reward_margin', 'reward_margin_samples'];
    end if;
    insert into pgtrain.evaluations (run_id, owner_id, model_name, dataset_id, evaluation_type, before_metrics, after_metrics, improvement, notes)
    values (run.id, me, pgtrain_private.name_of_choice(choice, run), dataset.id, case when questions > 0 then 'dataset_with_questions' else 'dataset' end,
            case when is_preference then before else pgtrain_private.with_perplexity(before, (before->>'loss')::double precision) end,
            case when is_preference then after else pgtrain_private.with_perplexity(after, (after->>'loss')::double precision) end,
            ((before->>'loss')::double precision - (after->>'loss')::double precision) / nullif((before->>'loss')::double precision, 0), evaluate.notes)
    returning id into made;
    if questions > 0 then
        perform pgtrain_private.ask_questions(made, me, choice, case when before is not null then base end, dataset, samples, base is not null or not choice ? 'run_id', questions, max_tokens);
    end if;
    perform pgtrain_private.write_audit('evaluate', null, jsonb_strip_nulls(jsonb_build_object('evaluation_id', made, 'run_id', run.id, 'checkpoint_id', choice->'checkpoint_id', 'dataset_id', dataset.id)));
    return made;
end $$;
comment on function pgtrain.evaluate(bigint, bigint, bigint, text, bigint, integer, integer, text) is
    'Measures a model or a checkpoint on a dataset, and the base model that it was trained from on the same samples: loss, perplexity, token accuracy, and with questions above 0 the answers of both to so many questions, scored (evaluation_answers). Of preferences: DPO''s loss, reward accuracy and margin against the base model, and how often the chosen answer is the likelier one. A whole imported model, and one that was trained from scratch, has nothing before it. Returns the evaluation';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
