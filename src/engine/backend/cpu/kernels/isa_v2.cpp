// The CPU's kernels for x86-64-v2: the sources in this folder with vectors of 16 bytes. CMake gives the instruction set.
#define PGTRAIN_ISA isa_v2
#define PGTRAIN_ISA_NAME "x86-64-v2"
#define PGTRAIN_VECTOR_BYTES 16
#define PGTRAIN_ISA_TABLE kernels_v2
#include "engine/backend/cpu/kernels/all.inl"
