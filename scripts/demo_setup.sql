-- What an application would do, with psql alone: register, log in, make a dataset, submit a run. Called by demo.sh with
-- the variables username, password, config (JSON text) and, when standard input brings a text, from_input.
-- Prints: session token, run, samples, bytes of text, what the dataset is made of.
\set QUIET on
\pset format unaligned
\pset tuples_only on
\set ON_ERROR_STOP on

select pgtrain.register_user(:'username', :'username' || '@example.org', :'password') as user_id \gset
select session_token from pgtrain.login(:'username', :'password') \gset
select pgtrain.authenticate(:'session_token', session => true) as me \gset

\if :{?from_input}
create temporary table paragraphs (content text);
\copy paragraphs from pstdin
select pgtrain.dataset_from_query('your text', 'select content from paragraphs') as dataset_id \gset
\set source 'paragraphs of your text'
\else
select pgtrain.dataset_from_query('English of PostgreSQL', $$
  select sentence
    from (select description from pg_description union
          select short_desc from pg_settings union
          select extra_desc from pg_settings) every (sentence)
   where sentence <> '' order by md5(sentence) $$,
  'Comments of the catalogue and descriptions of the settings') as dataset_id \gset
\set source 'sentences that every PostgreSQL carries'
\endif

select pgtrain.submit_run(dataset_id => :dataset_id, config => :'config', name => 'demo') as run_id \gset
select :'session_token', :run_id, d.sample_count, d.size_bytes, :'source' from pgtrain.datasets d where d.id = :dataset_id;
