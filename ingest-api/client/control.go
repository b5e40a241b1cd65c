package client

import (
	"context"
	"net/http"
	"net/url"

	"leafcutter/schemas/api"
)

// Cancel stops the runs of a document that have not ended. The runs are cancelled within moments; pages that are done stay.
// A document that has ended keeps its state, which the answer says with a Sequence of 0.
func (c *Client) Cancel(ctx context.Context, documentID string) (*api.Controlled, error) {
	return c.control(ctx, http.MethodPost, documentID, "/cancel")
}

// Resume takes a cancellation back; the answer says how many pages were asked for again. A document that was not cancelled
// is left as it is: then the answer has a Sequence of 0.
func (c *Client) Resume(ctx context.Context, documentID string) (*api.Controlled, error) {
	return c.control(ctx, http.MethodPost, documentID, "/resume")
}

// Delete deletes a document for good. Its id is refused from then on (code document-deleted); objects and rows go soon
// after. Deleting it again does nothing: then the answer has a Sequence of 0.
func (c *Client) Delete(ctx context.Context, documentID string) (*api.Controlled, error) {
	return c.control(ctx, http.MethodDelete, documentID, "")
}

// control asks something of a document. All of it may be asked again, so it is repeated where that may help.
func (c *Client) control(ctx context.Context, method, documentID, what string) (*api.Controlled, error) {
	var answer api.Controlled
	err := c.repeat(ctx, func() error {
		r, err := c.request(ctx, method, "/v1/documents/"+url.PathEscape(documentID)+what, nil)
		if err != nil {
			return err
		}
		return c.do(r, &answer)
	})
	if err != nil {
		return nil, err
	}
	return &answer, nil
}
