// Planner support of pgtrain_private.in_scope(owner_id, scope): tells that an index on the owner serves it (owner between
// scope_low(scope) and scope_high(scope)), how many rows pass for the caller of this moment, and that it costs as little as an
// operator. Without it a policy that also lets administrators see everything could never use the index for everyone else.
#include "pg/compat.hpp"

extern "C" {
#include "access/stratnum.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"
}

#include "pg/boundary/function.hpp"
#include "pg/rbac/rbac.hpp"

namespace {

namespace rbac = pgtrain::pg::rbac;

// scope_low or scope_high of the schema of in_scope itself. Looked up in the catalogue and not by name resolution, because the
// caller has no right to the schema.
Expr *bound(const char *function, Oid in_scope, Node *scope) {
  const Oid argument = INT8OID;
  oidvector *arguments = buildoidvector(&argument, 1);
  const Oid oid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(function), PointerGetDatum(arguments),
                                  ObjectIdGetDatum(get_func_namespace(in_scope)));
  if (oid == InvalidOid) return nullptr;
  List *values = list_make1(copyObjectImpl(scope));
  return reinterpret_cast<Expr *>(makeFuncExpr(oid, INT8OID, values, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL));
}

Expr *comparison(Oid family, StrategyNumber strategy, Node *owner, Expr *limit) {
  const Oid operator_oid = get_opfamily_member(family, INT8OID, INT8OID, static_cast<int16>(strategy));
  if (operator_oid == InvalidOid) return nullptr;
  Expr *clause = make_opclause(operator_oid, BOOLOID, false, static_cast<Expr *>(static_cast<void *>(copyObjectImpl(owner))), limit,
                               InvalidOid, InvalidOid);
  set_opfuncid(reinterpret_cast<OpExpr *>(clause));
  return clause;
}

// owner >= scope_low(scope) and owner <= scope_high(scope). Said to be lossy although it is exact: the row is checked against the
// real scope in any case, so that no plan, however old, can hand out a row because of what it was estimated with.
Node *index_condition(SupportRequestIndexCondition *request) {
  if (request->indexarg != 0 || !is_funcclause(request->node) || request->index->relam != BTREE_AM_OID) return nullptr;
  List *arguments = reinterpret_cast<FuncExpr *>(request->node)->args;
  if (list_length(arguments) != 2) return nullptr;
  Node *owner = static_cast<Node *>(linitial(arguments)), *scope = static_cast<Node *>(lsecond(arguments));
  if (!is_pseudo_constant_for_index(request->root, scope, request->index)) return nullptr;
  const Oid in_scope = reinterpret_cast<FuncExpr *>(request->node)->funcid;
  Expr *lowest = bound("scope_low", in_scope, scope), *highest = bound("scope_high", in_scope, scope);
  if (lowest == nullptr || highest == nullptr) return nullptr;
  Expr *low = comparison(request->opfamily, BTGreaterEqualStrategyNumber, owner, lowest);
  Expr *high = comparison(request->opfamily, BTLessEqualStrategyNumber, owner, highest);
  if (low == nullptr || high == nullptr) return nullptr;
  request->lossy = true;
  return reinterpret_cast<Node *>(list_make2(low, high));
}

// The scope of this moment, as far as it can be guessed without the entity.
int64 likely_scope() {
  const int64 user = rbac::current_user_id();
  return rbac::caller_reach("read", "admin") == rbac::Reach::Any ? rbac::scope_all : user;
}

// The scope itself is only known at run time. Who reads the administration reads everybody's rows; for everyone else what the
// statistics say of their own id is the best guess, and nobody (0) passes no row. A guess: the plan is right for all callers.
Node *selectivity(SupportRequestSelectivity *request) {
  if (request->is_join || list_length(request->args) != 2) return nullptr;
  const int64 user = likely_scope();
  if (user == rbac::scope_all) {
    request->selectivity = 1.0;
    return reinterpret_cast<Node *>(request);
  }
  Node *owner = static_cast<Node *>(linitial(request->args));
  Const *id = makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(user), false, FLOAT8PASSBYVAL);
  const Oid equal = OpernameGetOprid(list_make2(makeString(pstrdup("pg_catalog")), makeString(pstrdup("="))), INT8OID, INT8OID);
  request->selectivity = restriction_selectivity(request->root, equal, list_make2(owner, id), InvalidOid, request->varRelid);
  return reinterpret_cast<Node *>(request);
}

// scope_low and scope_high of an unknown scope, for estimates only: the calls are made by index_condition after the query's
// constants were folded, so what is returned here never gets into a plan (and would be checked there, see above).
Node *estimate_bound(SupportRequestSimplify *request, bool low) {
  if (IsA(linitial(request->fcall->args), Const)) return nullptr;
  const int64 scope = likely_scope();
  const int64 bound = scope != rbac::scope_all ? scope : low ? PG_INT64_MIN : PG_INT64_MAX;
  return reinterpret_cast<Node *>(
      makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(bound), false, FLOAT8PASSBYVAL));
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_scope_low_support) {
  auto *request = static_cast<Node *>(static_cast<void *>(PG_GETARG_POINTER(0)));
  if (!IsA(request, SupportRequestSimplify)) PG_RETURN_POINTER(nullptr);
  PG_RETURN_POINTER(estimate_bound(reinterpret_cast<SupportRequestSimplify *>(request), true));
}

PGTRAIN_FUNCTION(pgtrain_scope_high_support) {
  auto *request = static_cast<Node *>(static_cast<void *>(PG_GETARG_POINTER(0)));
  if (!IsA(request, SupportRequestSimplify)) PG_RETURN_POINTER(nullptr);
  PG_RETURN_POINTER(estimate_bound(reinterpret_cast<SupportRequestSimplify *>(request), false));
}

PGTRAIN_FUNCTION(pgtrain_in_scope_support) {
  auto *request = static_cast<Node *>(static_cast<void *>(PG_GETARG_POINTER(0)));
  Node *answer = nullptr;
  if (IsA(request, SupportRequestIndexCondition)) {
    answer = index_condition(reinterpret_cast<SupportRequestIndexCondition *>(request));
  } else if (IsA(request, SupportRequestSelectivity)) {
    answer = selectivity(reinterpret_cast<SupportRequestSelectivity *>(request));
  } else if (IsA(request, SupportRequestCost)) {
    auto *cost = reinterpret_cast<SupportRequestCost *>(request);
    cost->startup = 0;
    cost->per_tuple = cpu_operator_cost;
    answer = request;
  }
  PG_RETURN_POINTER(answer);
}
