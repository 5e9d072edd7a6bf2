/* Documents in, shards out: one thread reads and writes in order, the others tokenize. What is written does
 * not depend on how many there are. */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "tokenizer/tool/job.h"
#include "tokenizer/tool/output.h"

/* Tokenizes everything behind out->at into `out`, which is completed. An error leaves what was done, to go on
 * later. */
bool pipeline_run(const JobPlan *plan, Output *out, Error *e);

#endif
