/* What is made of documents: their tokens. A job is a batch of them, done by one thread. */
#ifndef JOB_H
#define JOB_H

#include "tokenizer/tokenizer.h"
#include "tokenizer/tool/documents.h"

/* What is the same for all jobs. */
typedef struct JobPlan {
  const TokenizeOptions *o;
  const Inputs *in;
  const Tokenizer *tokenizer;
  int64_t bos, eos; /* -1 = none */
} JobPlan;

/* The tokens of one document of a batch. */
typedef struct TokenRun {
  size_t n;         /* tokens */
  int64_t document; /* its number */
} TokenRun;

typedef struct Job {
  DocumentBatch batch;
  Ids tokens;     /* of all runs; with the marks of version 8 */
  TokenRun *runs; /* [run_count]; documents without text have none */
  size_t run_count, run_capacity;
  int64_t skipped, replaced; /* documents that are not UTF-8: left out, mended */
  Bytes notes;               /* a line for each of these */
  bool failed;
  Error error; /* of the first document that failed */
} Job;

/* Looks up --bos and --eos. */
bool job_plan_make(JobPlan *p, const TokenizeOptions *o, const Inputs *in, const Tokenizer *t, Error *e);
/* Fills in all that follows from the batch; each thread has its own encoder. */
void job_run(const JobPlan *p, Encoder *x, Job *j);
/* Gives memory back that only a large document needed. */
void job_shrink(Job *j);
void job_free(Job *j);

#endif
