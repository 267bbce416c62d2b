// What Go's mime/multipart gives of each form on standard input: [{"type", "body"}] as base64 in, [[name, filename, value]] out.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"os"
)

type form struct{ Type, Body []byte }

func read(given form) [][3]string {
	found := [][3]string{}
	_, params, err := mime.ParseMediaType(string(given.Type))
	if err != nil || params["boundary"] == "" {
		return found
	}
	reader := multipart.NewReader(bytes.NewReader(given.Body), params["boundary"])
	for {
		part, err := reader.NextPart()
		if err != nil {
			return found
		}
		value, _ := io.ReadAll(part)
		found = append(found, [3]string{part.FormName(), part.FileName(), string(value)})
	}
}

func main() {
	var forms []form
	if err := json.NewDecoder(os.Stdin).Decode(&forms); err != nil {
		panic(err)
	}
	answers := [][][3]string{}
	for _, given := range forms {
		answers = append(answers, read(given))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}
