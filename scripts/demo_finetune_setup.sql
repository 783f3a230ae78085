-- What an application would do, with psql alone: register, log in, import a model, make a dataset of questions and answers, ask the model,
-- submit a run. Called by demo_finetune.sh with the variables username, password, config (JSON text), model (a file that the server can
-- read) and question. Prints: session token, run, model, samples, bytes of text, the answer before training on one line.
\set QUIET on
\pset format unaligned
\pset tuples_only on
\set ON_ERROR_STOP on

select pgtrain.register_user(:'username', :'username' || '@example.org', :'password') as user_id \gset
select session_token from pgtrain.login(:'username', :'password') \gset
select pgtrain.authenticate(:'session_token', session => true) as me \gset
select pgtrain.import_model(path => :'model', name => 'SmolLM2-135M-Instruct') as model_id \gset

-- What PostgreSQL knows of itself: its settings and its functions.
select pgtrain.dataset_from_query('PostgreSQL, questions and answers', $$
  select jsonb_build_array(jsonb_build_object('role', 'user', 'content', question), jsonb_build_object('role', 'assistant', 'content', answer)) as messages
    from (select format('What does the PostgreSQL setting %s do?', name) as question, short_desc as answer
            from pg_settings where short_desc <> '' and name not like 'pgtrain.%'
          union
          select distinct on (p.proname) format('What does the PostgreSQL function %s do?', p.proname), d.description
            from pg_proc p join pg_description d on d.objoid = p.oid and d.classoid = 'pg_proc'::regclass
           where p.pronamespace = 'pg_catalog'::regnamespace and length(d.description) > 12 and d.description not like 'implementation of%') every
   order by md5(question) $$,
  'Descriptions of settings and functions') as dataset_id \gset

select replace(pgtrain.generate(model_id => :model_id, messages => jsonb_build_array(jsonb_build_object('role', 'user', 'content', :'question')),
                                max_tokens => 48, temperature => 0), E'\n', ' ') as before \gset

select pgtrain.submit_run(dataset_id => :dataset_id, config => jsonb_build_object('base_model', :'model_id') || :'config', name => 'demo of fine-tuning') as run_id \gset
select :'session_token', :run_id, :model_id, d.sample_count, d.size_bytes, :'before' from pgtrain.datasets d where d.id = :dataset_id;
