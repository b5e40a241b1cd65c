package main

import (
	"context"
	"syscall"
	"testing"
	"time"

	"leafcutter/pkg/stage"
	"leafcutter/schemas"
)

// What was deleted is known before the first record: of a topic that still holds it, nothing lands.
func TestDeletedDocumentsDoNotComeBack(t *testing.T) {
	b := newBench(t)
	gone, stays := runOf(1, 1), runOf(2, 1)
	for _, run := range []schemas.Run{gone, stays} {
		b.produce(t, append(opening(run), page(run, 1))...)
	}
	c := schemas.Control{DocumentID: gone.DocumentID, Action: schemas.ActionDelete, Sequence: 7, At: time.Now()}
	out, err := stage.Emit(schemas.TopicControls, c.DocumentID, c)
	if err == nil {
		err = b.producer.Produce(context.Background(), out)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, b.environ...)
	landed := "SELECT concat(toString((SELECT count() FROM documents)), ' ', toString((SELECT count() FROM page_results)), ' ', toString(max(document_id))) FROM runs"
	b.await(t, landed, "1 1 "+stays.DocumentID)

	// A delete that comes while it runs, then the word that the objects are gone.
	b.produce(t, schemas.DocumentDeleted{DocumentID: stays.DocumentID, Sequence: 8, RequestedAt: time.Now(), DeletedAt: time.Now(), Objects: 3})
	b.await(t, "SELECT concat(toString(count()), ' ', toString((SELECT count() FROM documents)), ' ', toString((SELECT objects FROM deletions FINAL))) FROM page_results", "0 0 3")
	b.produce(t, page(stays, 1))
	late := runOf(3, 1)
	b.produce(t, append(opening(late), page(late, 1))...)
	b.await(t, "SELECT concat(toString(count()), ' ', toString(max(document_id))) FROM documents", "1 "+late.DocumentID)
	p.end(t, syscall.SIGTERM)

	// Another group reads the topic from its start, and knows the one from controls and the other from deletions.
	replay := startProcess(t, append(b.environ, "LEAFCUTTER_GROUP_PREFIX=replay-")...)
	next := runOf(4, 1)
	b.produce(t, append(opening(next), page(next, 1))...)
	b.await(t, "SELECT concat(toString(count()), ' ', toString(min(document_id))) FROM documents", "2 "+late.DocumentID)
	replay.end(t, syscall.SIGTERM)
}
