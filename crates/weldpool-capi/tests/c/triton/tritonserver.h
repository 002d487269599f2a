/* What the page on the response allocator uses of Triton's tritonserver.h, as that declares it. */
#ifndef TRITONSERVER_H
#define TRITONSERVER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct TRITONSERVER_Error;
struct TRITONSERVER_InferenceRequest;
struct TRITONSERVER_InferenceResponse;
struct TRITONSERVER_ResponseAllocator;

typedef void (*TRITONSERVER_InferenceResponseCompleteFn_t)(struct TRITONSERVER_InferenceResponse *response,
                                                           const uint32_t flags, void *userp);

const char *TRITONSERVER_ErrorMessage(struct TRITONSERVER_Error *error);
void TRITONSERVER_ErrorDelete(struct TRITONSERVER_Error *error);
struct TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetResponseCallback(
    struct TRITONSERVER_InferenceRequest *inference_request, struct TRITONSERVER_ResponseAllocator *response_allocator,
    void *response_allocator_userp, TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void *response_userp);

#ifdef __cplusplus
}
#endif

#endif
