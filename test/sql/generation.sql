-- Generation: what is refused before a trainer is started. That every option arrives is tested in test/t/049_generation.pl.
\set VERBOSITY terse
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
begin;
select pgtrain.register_user('gen_ann', 'gen_ann@example.org', 'correct horse battery') as ann \gset
select pgtrain.authenticate(session_token) = :ann as is_ann from pgtrain.login('gen_ann', 'correct horse battery');
select pgtrain.create_dataset('gen_words') as data \gset
select pgtrain.append_samples(:data, array['one', 'two', 'three']);
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 30}') as run \gset
create function pg_temp.refusal(call text) returns text language plpgsql as $$
declare
    state text;
    message text;
    detail text;
begin
    execute 'select pgtrain.' || call;
    return 'accepted';
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail;
    return state || ' ' || regexp_replace(message, '(run|model|dataset) \d+', '\1 N') || coalesce(' ' || nullif(detail, ''), '');
end $$;
select c, pg_temp.refusal(c) from unnest(array[
    'generate()', 'generate(1, model_id => 1)', 'generate(-1)', 'generate(model_id => -1)', 'generate(model => ''no such model'')',
    'generate(-1, null)', 'generate(-1, ''p'', null)', 'generate(-1, ''p'', 0)', 'generate(-1, ''p'', 40000)', 'generate(-1, ''p'', temperature => -1)', 'generate(-1, ''p'', temperature => ''NaN'')',
    'generate(-1, ''p'', top_k => -1)', 'generate(-1, ''p'', top_p => 0)', 'generate(-1, ''p'', min_p => 1.5)', 'generate(-1, ''p'', repetition_penalty => 0)',
    'generate(-1, ''p'', stop => array[''''])', 'generate(-1, ''p'', stop => array[null]::text[])', 'generate(-1, ''p'', stop => array_fill(''x''::text, array[17]))',
    'generate(-1, repeat(''x'', 3145729))', 'generate(-1, messages => ''{}'')', 'generate(-1, messages => ''[]'')', 'generate(-1, messages => ''[1]'')',
    'generate(-1, messages => ''[{"role": "user", "content": "x"}, {"role": "user"}]'')',
    'generate(-1, ''p'', messages => ''[{"role": "user", "content": "x"}]'')', 'generate_stream(-1, ''p'', messages => ''[{"role": "user", "content": "x"}]'')',
    'generate_many(array[array[''a'', null]], run_id => -1)', 'generate_many(run_id => -1)', 'generate_many(array[''a''], ''[]'', -1)', 'generate_many(''{}'', run_id => -1)', 'generate_many(array[null]::text[], run_id => -1)',
    'generate_many(conversations => ''{}'', run_id => -1)', 'generate_many(conversations => ''[]'', run_id => -1)', 'generate_many(conversations => ''[[{"role": "user", "content": "x"}], [3]]'', run_id => -1)',
    'generate_many(array_fill(''x''::text, array[1025]), run_id => -1)', 'generate_stream(-1, ''p'', 0)', 'generate_stream(-1)']) c;
select c, pg_temp.refusal(replace(c, 'DATA', :'data')) from unnest(array[
    'evaluate(-1, -1)', 'evaluate(null)', 'evaluate(DATA)', 'evaluate(DATA, -1)', 'evaluate(DATA, -1, max_samples => 0)', 'evaluate(DATA, -1, questions => 1025)',
    'evaluate(DATA, -1, questions => null)', 'evaluate(DATA, -1, max_tokens => 0)', 'evaluate(pgtrain.create_dataset(''gen_empty''), -1)']) c;
select round(pgtrain_private.answer_score(a, e)::numeric, 3), pgtrain_private.squeezed(a) = pgtrain_private.squeezed(e) as is_exact, a, e
  from (values ('Paris.', 'paris'), (E' the  capital\nis Paris', 'the capital is Paris'), ('the capital is Paris', 'Paris'), ('a a b', 'a b b'), ('', ''), ('', 'x'), ('...', 'x'), ('Łódź!', 'łódź')) v (a, e);
select pg_temp.refusal(format('generate(%s)', :run)), pg_temp.refusal(format('generate_stream(%s)', :run));
rollback;
