"""Web page to decompose images and to compose and edit scenes."""
