// The CPU's kernels for x86-64-v3: the sources in this folder with vectors of 32 bytes. CMake gives the instruction set.
#define PGTRAIN_ISA isa_v3
#define PGTRAIN_ISA_NAME "x86-64-v3"
#define PGTRAIN_VECTOR_BYTES 32
#define PGTRAIN_ISA_TABLE kernels_v3
#include "engine/backend/cpu/kernels/all.inl"
