/* A stand-in for the CUDA driver whose device memory is the host's, for tests without a GPU. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int live = 0;

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGet(int *device, int index) {
  *device = 7;
  return index ? 101 : 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
  *context = &live;
  return device == 7 ? 0 : 101;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  /* Who gives the device back must have given the memory back. */
  if (live) abort();
  return device == 7 ? 0 : 101;
}
int cuCtxSetCurrent(void *context) { return context == &live ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) {
  *stream = malloc(1);
  return flags ? 1 : 0;
}
int cuStreamDestroy_v2(void *stream) {
  free(stream);
  return 0;
}
int cuStreamSynchronize(void *stream) { return stream ? 0 : 400; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (!size || size > (1ull << 40)) return 2;
  live++;
  *address = (uint64_t)(uintptr_t)malloc(size);
  return 0;
}
int cuMemFree_v2(uint64_t address) {
  live--;
  free((void *)(uintptr_t)address);
  return 0;
}
int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
  memcpy((void *)(uintptr_t)target, source, size);
  return 0;
}
int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
  memcpy(target, (const void *)(uintptr_t)source, size);
  return 0;
}
int cuGetErrorString(int code, const char **text) {
  *text = code == 2 ? "out of memory" : "invalid device ordinal";
  return 0;
}
